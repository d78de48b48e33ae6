// A Kafka-compatible broker for tests: franz-go's kfake as a process of its own, that keeps what it
// has stored in a folder over stops and kills.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	port := flag.Int("port", 0, "where to listen on loopback")
	folder := flag.String("folder", "", "where to keep what is stored")
	topic := flag.String("topic", "", "the topic that there is")
	partitions := flag.Int("partitions", 3, "how many partitions it has")
	certificate := flag.String("certificate", "", "speak TLS with this certificate")
	key := flag.String("key", "", "and its key")
	authority := flag.String("authority", "", "whose certificates clients must have")
	flag.Parse()

	options := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.Ports(*port),
		kfake.SeedTopics(int32(*partitions), *topic),
		kfake.DataDir(*folder),
		kfake.SyncWrites(),
	}
	if *certificate != "" {
		pair, err := tls.LoadX509KeyPair(*certificate, *key)
		check(err)
		text, err := os.ReadFile(*authority)
		check(err)
		clients := x509.NewCertPool()
		clients.AppendCertsFromPEM(text)
		options = append(options, kfake.TLS(&tls.Config{
			Certificates: []tls.Certificate{pair},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    clients,
		}))
	}
	cluster, err := kfake.NewCluster(options...)
	check(err)
	fmt.Println("listening", cluster.ListenAddrs())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	cluster.Close()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A Kafka-compatible broker for tests: franz-go's kfake as a process of its own, that keeps what it
// has stored in a folder over stops and kills.
package main

import (
	"crypto/tls"
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
	user := flag.String("user", "", "who must log in by SASL/PLAIN, as two words")
	certificate := flag.String("certificate", "", "speak TLS with this certificate")
	key := flag.String("key", "", "and its key")
	flag.Parse()

	options := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.Ports(*port),
		kfake.SeedTopics(int32(*partitions), *topic),
		kfake.DataDir(*folder),
		kfake.SyncWrites(),
	}
	if *user != "" {
		var name, password string
		if _, err := fmt.Sscanf(*user, "%s %s", &name, &password); err != nil {
			fail(err)
		}
		options = append(options, kfake.EnableSASL(), kfake.Superuser("PLAIN", name, password))
	}
	if *certificate != "" {
		pair, err := tls.LoadX509KeyPair(*certificate, *key)
		if err != nil {
			fail(err)
		}
		options = append(options, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}))
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		fail(err)
	}
	fmt.Println("listening", cluster.ListenAddrs())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	cluster.Close()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

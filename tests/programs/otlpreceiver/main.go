// The OpenTelemetry collector's own OTLP receiver as a process of its own, for tests. It writes each
// log record that it takes to a file, one JSON object a line, before it answers.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

type record struct {
	ID       string `json:"id"`
	Event    string `json:"event"`
	Severity string `json:"severity"`
	Service  string `json:"service"`
	At       int64  `json:"at"`
	Body     string `json:"body"`
}

func main() {
	port := flag.Int("port", 0, "where to listen on loopback")
	file := flag.String("file", "", "where to write what is taken")
	flag.Parse()

	out, err := os.OpenFile(*file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	check(err)
	taker, err := consumer.NewLogs(func(_ context.Context, logs plog.Logs) error {
		return write(out, logs)
	})
	check(err)

	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig().(*otlpreceiver.Config)
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr.Endpoint = fmt.Sprintf("127.0.0.1:%d", *port)
	config.Protocols.HTTP = configoptional.Some(otlpreceiver.HTTPConfig{
		ServerConfig: server, LogsURLPath: "/v1/logs",
	})
	settings := receiver.Settings{
		ID:                component.NewID(factory.Type()),
		TelemetrySettings: componenttest.NewNopTelemetrySettings(),
	}
	made, err := factory.CreateLogs(context.Background(), settings, config, taker)
	check(err)
	check(made.Start(context.Background(), componenttest.NewNopHost()))

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	check(made.Shutdown(context.Background()))
}

func write(out *os.File, logs plog.Logs) error {
	var text []byte
	for _, group := range logs.ResourceLogs().All() {
		service, _ := group.Resource().Attributes().Get("service.name")
		for _, scope := range group.ScopeLogs().All() {
			for _, one := range scope.LogRecords().All() {
				id, _ := one.Attributes().Get("log.record.uid")
				line, err := json.Marshal(record{
					id.AsString(), one.EventName(), one.SeverityText(), service.AsString(),
					int64(one.Timestamp()), one.Body().AsString(),
				})
				if err != nil {
					return err
				}
				text = append(append(text, line...), '\n')
			}
		}
	}
	if _, err := out.Write(text); err != nil {
		return err
	}
	return out.Sync()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Drives Temporal's development server: a workflow that does nothing is the task, its result is awaited.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"drive/measure"
)

const (
	lanes   = 50
	pollers = 16
	queue   = "bench"
	readyIn = 30 * time.Second
)

// Noop is the whole task: without an activity, which would cost more.
func Noop(_ workflow.Context, task measure.Noop) (int, error) { return task.Number, nil }

func main() {
	ctx := context.Background()
	plan := measure.PlanFromEnv()
	ledger := measure.NewLedger(plan)
	logger := log.NewStructuredLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	var temporal client.Client
	var err error
	for end := time.Now().Add(readyIn); ; {
		temporal, err = client.DialContext(ctx, client.Options{HostPort: plan.URL, Logger: logger})
		if err == nil || time.Now().After(end) {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	measure.Must(err)
	running := worker.New(temporal, queue, worker.Options{MaxConcurrentWorkflowTaskPollers: pollers})
	running.RegisterWorkflow(Noop)
	measure.Must(running.Start())

	one := func(number int) {
		options := client.StartWorkflowOptions{TaskQueue: queue}
		started, err := temporal.ExecuteWorkflow(ctx, options, Noop, measure.New(number))
		measure.Must(err)
		var told int
		measure.Must(started.Get(ctx, &told))
		ledger.Count(told)
	}
	many := func(from, to int) {
		numbers := make(chan int, lanes)
		var all sync.WaitGroup
		for range lanes {
			all.Go(func() {
				for number := range numbers {
					one(number)
				}
			})
		}
		for number := from; number < to; number++ {
			numbers <- number
		}
		close(numbers)
		all.Wait()
	}
	fmt.Fprintln(os.Stderr, "connected")
	measure.Run(plan, ledger, one, many, measure.Says{
		LatencyUntil: "result",
		HearsResult:  true,
		Settings:     fmt.Sprintf("a workflow without activities a task, %d under way, %d pollers; development server", lanes, pollers),
	})
}

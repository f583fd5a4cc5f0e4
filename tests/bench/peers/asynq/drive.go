// Drives Asynq: one producer with many enqueues under way, since there is no bulk, and a server of 100.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/hibiken/asynq"

	"drive/measure"
)

const (
	lanes       = 64
	concurrency = 100
	// How often an idle server looks; by default each second.
	checkInterval = 5 * time.Millisecond
)

func main() {
	plan := measure.PlanFromEnv()
	ledger := measure.NewLedger(plan)
	redis, err := asynq.ParseRedisURI(plan.URL)
	measure.Must(err)
	server := asynq.NewServer(redis, asynq.Config{
		Concurrency:       concurrency,
		TaskCheckInterval: checkInterval,
		LogLevel:          asynq.ErrorLevel,
	})
	mux := asynq.NewServeMux()
	mux.HandleFunc("noop", func(_ context.Context, task *asynq.Task) error {
		var noop measure.Noop
		if err := json.Unmarshal(task.Payload(), &noop); err != nil {
			return err
		}
		ledger.Count(noop.Number)
		return nil
	})
	measure.Must(server.Start(mux))
	client := asynq.NewClient(redis)

	one := func(number int) {
		payload, err := json.Marshal(measure.New(number))
		measure.Must(err)
		_, err = client.Enqueue(asynq.NewTask("noop", payload))
		measure.Must(err)
	}
	many := func(from, to int) {
		numbers := make(chan int, lanes)
		var running sync.WaitGroup
		for range lanes {
			running.Go(func() {
				for number := range numbers {
					one(number)
				}
			})
		}
		for number := from; number < to; number++ {
			numbers <- number
		}
		close(numbers)
		running.Wait()
	}
	measure.Run(plan, ledger, one, many, measure.Says{
		LatencyUntil: "handler",
		Settings: fmt.Sprintf("%d enqueues under way; Concurrency %d, TaskCheckInterval %v", lanes, concurrency,
			checkInterval),
	})
}

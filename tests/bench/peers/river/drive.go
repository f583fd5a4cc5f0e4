// Drives River: InsertManyFast in batches, 2,000 workers, a short cooldown between fetches.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"drive/measure"
)

const (
	batch           = 2000
	batchesInFlight = 2
	// What River's own benchmark runs with.
	workers       = 2000
	fetchCooldown = 2 * time.Millisecond
	fetchPoll     = 20 * time.Millisecond
)

// Args is the task as River stores it.
type Args struct{ measure.Noop }

// Kind names it.
func (Args) Kind() string { return "noop" }

type worker struct {
	river.WorkerDefaults[Args]
	ledger *measure.Ledger
}

func (w *worker) Work(_ context.Context, job *river.Job[Args]) error {
	w.ledger.Count(job.Args.Number)
	return nil
}

func main() {
	ctx := context.Background()
	plan := measure.PlanFromEnv()
	ledger := measure.NewLedger(plan)
	pool, err := pgxpool.New(ctx, plan.URL)
	measure.Must(err)
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	measure.Must(err)
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	measure.Must(err)

	all := river.NewWorkers()
	river.AddWorker(all, &worker{ledger: ledger})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		FetchCooldown:     fetchCooldown,
		FetchPollInterval: fetchPoll,
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		Workers:           all,
	})
	measure.Must(err)
	measure.Must(client.Start(ctx))

	one := func(number int) {
		_, err := client.Insert(ctx, Args{measure.New(number)}, nil)
		measure.Must(err)
	}
	measure.Run(plan, ledger, one, func(from, to int) { insert(ctx, client, from, to) }, measure.Says{
		LatencyUntil: "handler",
		Settings: fmt.Sprintf("InsertManyFast of %d, %d under way; MaxWorkers %d, FetchCooldown %v, "+
			"FetchPollInterval %v", batch, batchesInFlight, workers, fetchCooldown, fetchPoll),
	})
}

func insert(ctx context.Context, client *river.Client[pgx.Tx], from, to int) {
	firsts := make(chan int)
	var lanes sync.WaitGroup
	for range batchesInFlight {
		lanes.Go(func() {
			for first := range firsts {
				var params []river.InsertManyParams
				for number := first; number < min(to, first+batch); number++ {
					params = append(params, river.InsertManyParams{Args: Args{measure.New(number)}})
				}
				_, err := client.InsertManyFast(ctx, params)
				measure.Must(err)
			}
		})
	}
	for first := from; first < to; first += batch {
		firsts <- first
	}
	close(firsts)
	lanes.Wait()
}

// Package measure is what every Go driver measures with: numbered tasks, which of them were seen, and one line of JSON.
package measure

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	bodyBytes = 200
	frame     = `{"number":,"padding":""}`
	// Tasks that only warm up: connections, plans, caches.
	warmUpTasks = 1000
	// How long nothing may happen before what is missing counts as lost.
	standstill = 20 * time.Second
)

// Noop is a task that does nothing, as 200 bytes of JSON.
type Noop struct {
	Number  int    `json:"number"`
	Padding string `json:"padding"`
}

// New returns the task with this number.
func New(number int) Noop {
	padding := max(0, bodyBytes-len(frame)-len(strconv.Itoa(number)))
	return Noop{Number: number, Padding: strings.Repeat("x", padding)}
}

// Plan is what to do: where the store is, and where each phase's numbers end.
type Plan struct {
	URL                             string
	WarmUpEnd, LatencyEnd, TasksEnd int
}

// PlanFromEnv reads what run.sh has set.
func PlanFromEnv() Plan {
	number := func(name string) int {
		value, err := strconv.Atoi(os.Getenv(name))
		Must(err)
		return value
	}
	latencyEnd := warmUpTasks + number("PEER_LATENCY_TASKS")
	return Plan{os.Getenv("PEER_URL"), warmUpTasks, latencyEnd, latencyEnd + number("PEER_TASKS")}
}

// Must ends the driver where there is an error.
func Must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Ledger knows which tasks were seen, and how often.
type Ledger struct {
	seen      []atomic.Uint32
	distinct  atomic.Int64
	target    atomic.Int64
	reachedAt chan time.Time
}

// NewLedger returns one for all numbers of the plan.
func NewLedger(plan Plan) *Ledger {
	return &Ledger{seen: make([]atomic.Uint32, plan.TasksEnd), reachedAt: make(chan time.Time, 1)}
}

// Count counts a task: a start, or a result where the client hears of it.
func (l *Ledger) Count(number int) {
	if l.seen[number].Add(1) == 1 && l.distinct.Add(1) == l.target.Load() {
		l.reachedAt <- time.Now()
	}
}

// Time submits, waits until so many different tasks were seen, and tells how long that took.
func (l *Ledger) Time(target int, submit func()) time.Duration {
	l.target.Store(int64(target))
	begun := time.Now()
	submit()
	before, last := int64(-1), time.Now()
	for {
		select {
		case reachedAt := <-l.reachedAt:
			return reachedAt.Sub(begun)
		case <-time.After(standstill):
			if l.distinct.Load() == before {
				return last.Sub(begun)
			}
			before, last = l.distinct.Load(), time.Now()
		}
	}
}

// Says is what a driver knows of itself.
type Says struct {
	LatencyUntil string
	HearsResult  bool
	Settings     string
}

// Run warms up, measures latency one at a time, then throughput, prints the line and ends the process.
func Run(plan Plan, ledger *Ledger, one func(number int), many func(from, to int), says Says) {
	ledger.Time(plan.WarmUpEnd, func() { many(0, plan.WarmUpEnd) })
	var latencies []time.Duration
	for number := plan.WarmUpEnd; number < plan.LatencyEnd; number++ {
		latencies = append(latencies, ledger.Time(number+1, func() { one(number) }))
	}
	took := ledger.Time(plan.TasksEnd, func() { many(plan.LatencyEnd, plan.TasksEnd) })
	lost, doubled := 0, 0
	for number := range ledger.seen {
		seen := int(ledger.seen[number].Load())
		if seen == 0 && number >= plan.LatencyEnd {
			lost++
		}
		doubled += max(0, seen-1)
	}
	sort.Slice(latencies, func(a, b int) bool { return latencies[a] < latencies[b] })
	at := func(share float64) float64 {
		if len(latencies) == 0 {
			return 0
		}
		index := int(math.Ceil(float64(len(latencies))*share)) - 1
		return latencies[max(0, index)].Seconds() * 1000
	}
	tasks := plan.TasksEnd - plan.LatencyEnd
	line, err := json.Marshal(map[string]any{
		"tasks": tasks, "tasks_per_s": float64(tasks-lost) / took.Seconds(), "p50_ms": at(0.5), "p99_ms": at(0.99),
		"latency_until": says.LatencyUntil, "hears_result": says.HearsResult, "lost": lost, "doubled": doubled,
		"settings": says.Settings,
	})
	Must(err)
	fmt.Println(string(line))
	os.Exit(0)
}

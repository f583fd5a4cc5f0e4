// What every Node driver measures with: numbered tasks, which of them were seen, and one line of JSON.
"use strict";

const { createRequire } = require("node:module");

const BODY_BYTES = 200;
const FRAME_BYTES = '{"number":,"padding":""}'.length;
// Tasks that only warm up: connections, scripts, the compiler.
const WARM_UP_TASKS = 1000;
// How long nothing may happen before what is missing counts as lost.
const STANDSTILL_MS = 20_000;

/** A task that does nothing, as 200 bytes of JSON. */
function noop(number) {
    return { number, padding: "x".repeat(Math.max(0, BODY_BYTES - FRAME_BYTES - String(number).length)) };
}

/** What to do, read from the environment: where each phase's numbers end. */
function planFromEnv() {
    const latency = WARM_UP_TASKS + Number(process.env.PEER_LATENCY_TASKS);
    return { url: process.env.PEER_URL, warmUpEnd: WARM_UP_TASKS, latencyEnd: latency,
        tasksEnd: latency + Number(process.env.PEER_TASKS) };
}

/** Loads a package from the cache folder that run.sh installed it into. */
function load(name) {
    return createRequire(`${process.env.PEER_MODULES}/`)(name);
}

/** Which tasks were seen, and how often. */
class Ledger {
    constructor(total) {
        this.seen = new Uint8Array(total);
        this.distinct = 0;
        this.target = Infinity;
        this.reachedAt = 0;
    }

    /** Counts a task: a start, or a result where the client hears of it. */
    count(number) {
        if (this.seen[number]++ === 0 && ++this.distinct === this.target) {
            this.reachedAt = performance.now();
            this.reached?.();
        }
    }

    /** Submits, waits until so many different tasks were seen, and tells the milliseconds. */
    async time(target, submit) {
        this.target = target;
        const all = new Promise((resolve) => { this.reached = resolve; });
        const begun = performance.now();
        await submit();
        let [before, last] = [-1, performance.now()];
        while (this.distinct < target) {
            let timer;
            const standstill = new Promise((resolve) => { timer = setTimeout(resolve, STANDSTILL_MS); });
            await Promise.race([all, standstill]);
            clearTimeout(timer);
            if (this.distinct < target) {
                if (this.distinct === before) return last - begun;
                [before, last] = [this.distinct, performance.now()];
            }
        }
        return this.reachedAt - begun;
    }

    lost(from, to) {
        return this.seen.subarray(from, to).filter((times) => times === 0).length;
    }

    doubled() {
        return this.seen.reduce((sum, times) => sum + Math.max(0, times - 1), 0);
    }
}

/** Warms up, measures latency one at a time, then throughput, and prints the line. */
async function measure(plan, ledger, submitOne, submitMany, says) {
    await ledger.time(plan.warmUpEnd, () => submitMany(0, plan.warmUpEnd));
    const latencies = [];
    for (let number = plan.warmUpEnd; number < plan.latencyEnd; number++) {
        latencies.push(await ledger.time(number + 1, () => submitOne(number)));
    }
    const took = await ledger.time(plan.tasksEnd, () => submitMany(plan.latencyEnd, plan.tasksEnd));
    const tasks = plan.tasksEnd - plan.latencyEnd;
    const lost = ledger.lost(plan.latencyEnd, plan.tasksEnd);
    latencies.sort((a, b) => a - b);
    const at = (share) => latencies[Math.max(0, Math.ceil(latencies.length * share) - 1)] ?? 0;
    return { tasks, tasks_per_s: (tasks - lost) / (took / 1000), p50_ms: at(0.5), p99_ms: at(0.99), lost,
        doubled: ledger.doubled(), ...says };
}

module.exports = { Ledger, load, measure, noop, planFromEnv };

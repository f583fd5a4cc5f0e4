// Drives graphile-worker: addJobs in batches, a local queue, and completions stored in batches.
"use strict";

const { fork } = require("node:child_process");
const { Ledger, load, measure, noop, planFromEnv } = require("../measure/measure.cjs");

const { Logger, makeWorkerUtils, run, runMigrations } = load("graphile-worker");
const BATCH = 1000;
const BATCHES_IN_FLIGHT = 2;
const CONCURRENCY = 24;
const LOCAL_QUEUE = 500;

const plan = planFromEnv();
const logger = new Logger(() => (level, message) => {
    if (level === "error" || level === "warning") console.error(message);
});

async function work() {
    // Numbers go to the parent in bundles, so that counting costs the worker little.
    let started = [];
    const tell = () => {
        process.send(started);
        started = [];
    };
    const taskList = {
        noop: (payload) => {
            if (started.push(payload.number) === 1) setImmediate(tell);
        },
    };
    const preset = { worker: { concurrentJobs: CONCURRENCY, maxPoolSize: CONCURRENCY + 2, pollInterval: 2000,
        localQueue: { size: LOCAL_QUEUE }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } };
    const runner = await run({ connectionString: plan.url, taskList, logger, noHandleSignals: true, preset });
    process.send("ready");
    await runner.promise;
}

async function drive() {
    await runMigrations({ connectionString: plan.url, logger });
    const ledger = new Ledger(plan.tasksEnd);
    const worker = fork(__filename, ["worker"], { serialization: "advanced" });
    process.on("exit", () => worker.kill("SIGKILL"));
    await new Promise((resolve) => worker.once("message", resolve));
    worker.on("message", (numbers) => numbers.forEach((number) => ledger.count(number)));
    const utils = await makeWorkerUtils({ connectionString: plan.url, logger });

    const submitOne = (number) => utils.addJob("noop", noop(number));
    const submitMany = async (from, to) => {
        let next = from;
        const lane = async () => {
            while (next < to) {
                const first = next;
                next = Math.min(to, first + BATCH);
                await utils.addJobs(Array.from({ length: next - first },
                    (_, index) => ({ identifier: "noop", payload: noop(first + index) })));
            }
        };
        await Promise.all(Array.from({ length: BATCHES_IN_FLIGHT }, lane));
    };
    const outcome = await measure(plan, ledger, submitOne, submitMany, { latency_until: "handler", hears_result: false,
        settings: `addJobs of ${BATCH}, ${BATCHES_IN_FLIGHT} under way; worker in a process of its own, `
            + `concurrentJobs ${CONCURRENCY}, local queue of ${LOCAL_QUEUE}, completions in batches` });
    console.log(JSON.stringify(outcome));
    process.exit(0);
}

(process.argv[2] === "worker" ? work() : drive()).catch((error) => {
    console.error(error);
    process.exit(1);
});

// Drives BullMQ: addBulk, a worker in a process of its own, and results heard through QueueEvents.
"use strict";

const { fork } = require("node:child_process");
const { Ledger, load, measure, noop, planFromEnv } = require("../measure/measure.cjs");

const { Queue, QueueEvents, Worker } = load("bullmq");
const BULK = 1000;
const BULKS_IN_FLIGHT = 2;
const CONCURRENCY = 100;
const QUEUE = "bench";

const plan = planFromEnv();
const { hostname: host, port } = new URL(plan.url);
const connection = { host, port: Number(port) };

async function work() {
    const worker = new Worker(QUEUE, async (job) => job.data.number,
        { connection: { ...connection, maxRetriesPerRequest: null }, concurrency: CONCURRENCY });
    worker.on("error", (error) => console.error(`worker: ${error.message}`));
    await worker.waitUntilReady();
    process.send("ready");
}

async function drive() {
    const worker = fork(__filename, ["worker"]);
    process.on("exit", () => worker.kill("SIGKILL"));
    await new Promise((resolve) => worker.once("message", resolve));
    const queue = new Queue(QUEUE, { connection,
        defaultJobOptions: { removeOnComplete: true }, streams: { events: { maxLen: 1_000_000 } } });
    const events = new QueueEvents(QUEUE, { connection: { ...connection, maxRetriesPerRequest: null } });
    await events.waitUntilReady();
    const ledger = new Ledger(plan.tasksEnd);
    events.on("completed", ({ returnvalue }) => ledger.count(Number(returnvalue)));

    const submitOne = (number) => queue.add("noop", noop(number));
    const submitMany = async (from, to) => {
        let next = from;
        const lane = async () => {
            while (next < to) {
                const first = next;
                next = Math.min(to, first + BULK);
                await queue.addBulk(Array.from({ length: next - first },
                    (_, index) => ({ name: "noop", data: noop(first + index) })));
            }
        };
        await Promise.all(Array.from({ length: BULKS_IN_FLIGHT }, lane));
    };
    const outcome = await measure(plan, ledger, submitOne, submitMany, { latency_until: "result", hears_result: true,
        settings: `addBulk of ${BULK}, ${BULKS_IN_FLIGHT} under way, removeOnComplete; worker in a process of its own, `
            + `concurrency ${CONCURRENCY}; results by QueueEvents` });
    console.log(JSON.stringify(outcome));
    process.exit(0);
}

(process.argv[2] === "worker" ? work() : drive()).catch((error) => {
    console.error(error);
    process.exit(1);
});

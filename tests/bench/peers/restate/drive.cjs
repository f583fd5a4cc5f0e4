// Drives Restate: a service of one handler in a process of its own, called through the ingress, results heard.
"use strict";

const { fork, spawn } = require("node:child_process");
const { mkdirSync } = require("node:fs");
const http = require("node:http");
const net = require("node:net");
const { Ledger, load, measure, noop, planFromEnv } = require("../measure/measure.cjs");

const CALLS_IN_FLIGHT = 100;
const READY_MS = 30_000;

const agent = new http.Agent({ keepAlive: true, maxSockets: CALLS_IN_FLIGHT });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A port that nobody has. */
function freePort() {
    return new Promise((resolve) => {
        const server = net.createServer().listen(0, "127.0.0.1", () => {
            const { port } = server.address();
            server.close(() => resolve(port));
        });
    });
}

/** Posts JSON and returns what is answered. */
function post(port, path, body) {
    return new Promise((resolve, reject) => {
        const bytes = Buffer.from(JSON.stringify(body));
        const request = http.request({ host: "127.0.0.1", port, path, method: "POST", agent,
            headers: { "content-type": "application/json", "content-length": bytes.length } }, (response) => {
            const chunks = [];
            response.on("data", (chunk) => chunks.push(chunk));
            response.on("end", () => {
                const text = Buffer.concat(chunks).toString();
                if (response.statusCode < 300) resolve(text ? JSON.parse(text) : null);
                else reject(new Error(`${path}: ${response.statusCode} ${text.slice(0, 200)}`));
            });
        });
        request.on("error", reject);
        request.end(bytes);
    });
}

// The SDK wants Node 22; on Node 20 this is all that it lacks.
Promise.withResolvers ??= function withResolvers() {
    const it = {};
    it.promise = new this((resolve, reject) => Object.assign(it, { resolve, reject }));
    return it;
};

async function serve(port) {
    const restate = load("@restatedev/restate-sdk");
    const service = restate.service({ name: "bench", handlers: { noop: async (_context, task) => task.number } });
    await restate.serve({ services: [service], port, logger: (about, ...words) => {
        if (String(about.level).toLowerCase() === "error") console.error(...words);
    } });
    process.send("ready");
}

async function drive() {
    const plan = planFromEnv();
    const [ingress, admin, node, service] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
    const folder = process.env.PEER_FOLDER;
    mkdirSync(folder, { recursive: true });
    const server = spawn(process.env.PEER_SERVER, ["--base-dir", folder], { stdio: ["ignore", 2, 2], cwd: folder,
        env: { ...process.env, RESTATE_BIND_ADDRESS: `127.0.0.1:${node}`, RESTATE_LOG_FILTER: "error",
            RESTATE_ADVERTISED_ADDRESS: `http://127.0.0.1:${node}/`, RESTATE_INGRESS__BIND_ADDRESS: `127.0.0.1:${ingress}`,
            RESTATE_ADMIN__BIND_ADDRESS: `127.0.0.1:${admin}`, RESTATE_DISABLE_TELEMETRY: "true",
            RESTATE_LISTEN_MODE: "tcp", DO_NOT_TRACK: "true" } });
    const worker = fork(__filename, ["serve", String(service)]);
    process.on("exit", () => [server, worker].forEach((child) => child.kill("SIGKILL")));
    server.on("exit", (status) => {
        console.error(`restate-server ended with ${status}`);
        process.exit(1);
    });
    await new Promise((resolve) => worker.once("message", resolve));
    const end = performance.now() + READY_MS;
    for (;;) {
        try {
            await post(admin, "/deployments", { uri: `http://127.0.0.1:${service}` });
            break;
        } catch (error) {
            if (performance.now() > end) throw error;
            await pause(200);
        }
    }
    const ledger = new Ledger(plan.tasksEnd);
    const call = async (number) => ledger.count(await post(ingress, "/bench/noop", noop(number)));
    const submitMany = async (from, to) => {
        let next = from;
        const lane = async () => {
            while (next < to) await call(next++);
        };
        await Promise.all(Array.from({ length: CALLS_IN_FLIGHT }, lane));
    };
    const outcome = await measure(plan, ledger, call, submitMany, { latency_until: "result", hears_result: true,
        settings: `calls through the ingress over HTTP, ${CALLS_IN_FLIGHT} under way; handler in a process of its own` });
    console.log(JSON.stringify(outcome));
    process.exit(0);
}

(process.argv[2] === "serve" ? serve(Number(process.argv[3])) : drive()).catch((error) => {
    console.error(error);
    process.exit(1);
});

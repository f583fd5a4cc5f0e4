#!/usr/bin/env node
// Submits a task by publishing plain JSON, and waits for its completion.
//
//     npm install @nats-io/transport-node @nats-io/jetstream
//     node submit.mjs jetlane.echo '{"a": 1}'
import { connect } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

const [type, body] = process.argv.slice(2);
if (!type || !body) {
  console.error("usage: submit.mjs TYPE JSON");
  process.exit(64);
}

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
const js = jetstream(nc);

const ack = await js.publish(`jetlane.submit.${type}`, body); // acknowledged: it is stored
const id = `s${ack.seq}`; // the id of a task that was published without one
console.error(`submitted ${id}`);

// A consumer of DONE, not a core subscription: what the stream refused is no completion. It also
// finds one that was stored before it looked.
const done = await js.consumers.get("JETLANE_DONE", { filter_subjects: `jetlane.done.${type}.${id}` });
const completion = await done.next({ expires: 60_000 });
const outcome = completion?.headers?.get("ce-jetlaneoutcome") ?? "nothing within a minute";
console.log(outcome, completion?.string() ?? "");

await nc.close();
process.exit(outcome === "succeeded" ? 0 : 1);

// The client of the JavaScript SDK for A2A does what the words say with an agent, and prints what it saw as JSON.
//
//   NODE_PATH=MODULES node a2a_client.cjs BASE_URL KEY BINDING WEBHOOK [0.3]
"use strict";

const sdk = require("@a2a-js/sdk");
const { ClientFactory, DefaultAgentCardResolver, JsonRpcTransportFactory, RestTransportFactory } = require("@a2a-js/sdk/client");
const { createAuthenticatingFetchWithRetry } = require("@a2a-js/sdk/client");

const [base, key, binding, webhook, version = "1.0"] = process.argv.slice(2);
const fetchImpl = createAuthenticatingFetchWithRetry(fetch, {
  headers: async () => ({ Authorization: `Bearer ${key}` }),
  shouldRetryWithHeaders: async () => undefined,
});
const options = { fetchImpl, legacyCompat: { enabled: version === "0.3" } };

// The SDK's own verifier, with the key set that the card's signature names.
async function keyOf(kid, jku) {
  const { keys } = await (await fetch(jku)).json();
  return keys.find((each) => each.kid === kid);
}

async function connected() {
  const raw = await (await fetchImpl(`${base}/.well-known/agent-card.json`)).json();
  await sdk.verifyAgentCardSignature(keyOf)(raw); // of what was sent: it cannot verify what it has read already
  const card = new DefaultAgentCardResolver().normalizeAgentCard(raw);
  card.supportedInterfaces = card.supportedInterfaces.filter(
    (each) => each.protocolVersion === version && each.protocolBinding === binding,
  );
  const transports = [new JsonRpcTransportFactory(options), new RestTransportFactory(options)];
  return new ClientFactory({ transports }).createFromAgentCard(card);
}

let sent = 0;
function message(behaviour, more = {}) {
  const messageId = `${behaviour}-js-${process.pid}-${(sent += 1)}`;
  const parts = [{ text: "hi" }];
  return sdk.SendMessageRequest.fromJSON({ message: { messageId, role: "ROLE_USER", parts, ...more } });
}

const stateOf = (task) => sdk.taskStateToJSON(task.status.state).replace("TASK_STATE_", "");

function shape({ payload: { $case: kind, value } }) {
  return value.status ? `${kind} ${stateOf(value)}` : kind;
}

async function gathered(stream, most = Infinity) {
  const seen = [];
  for await (const event of stream) {
    seen.push(event);
    if (seen.length >= most) break; // ends the generator, and with it the connection
  }
  return seen;
}

async function newest(client) {
  const { tasks } = await client.listTasks(sdk.ListTasksRequest.fromJSON({ pageSize: 1 }));
  return tasks[0].id;
}

// A task of which the webhook is told, which is watched by who started this program.
async function pushed(client) {
  const task = await client.sendMessage(message("tck-input-required"));
  const config = { taskId: task.id, url: webhook, token: "own-token" };
  const made = await client.createTaskPushNotificationConfig(sdk.TaskPushNotificationConfig.fromJSON(config));
  await client.sendMessage(message("tck-complete-task", { taskId: task.id }));
  const which = { tenant: "", taskId: task.id, id: made.id };
  const read = await client.getTaskPushNotificationConfig(which);
  return { which, made: [made.url, made.token], read: [read.url, read.token] };
}

const done = () => new Promise((resolve) => process.stdin.once("data", resolve)); // a line, once it was notified

async function main() {
  const client = await connected();
  const streamed = await gathered(client.sendMessageStream(message("tck-stream-artifact-chunked")));
  const direct = await client.sendMessage(message("tck-message-response"));
  const before = await gathered(client.sendMessageStream(message("test-resubscribe-message-id")), 2);
  const id = before[0].payload.value.id;
  const after = await gathered(client.resubscribeTask({ tenant: "", id }));
  const asked = await client.sendMessage(message("tck-input-required"));
  const answered = await client.sendMessage(message("tck-complete-task", { taskId: asked.id }));
  const waiting = await client.sendMessage(message("tck-input-required"));
  const canceled = await client.cancelTask({ tenant: "", id: waiting.id, metadata: undefined });
  const listed = version === "1.0" && (await newest(client)) === waiting.id; // 0.3 has no list
  const push = await pushed(client);
  console.log(JSON.stringify(push));
  await done();
  await client.deleteTaskPushNotificationConfig(push.which);
  const missing = await client.getTaskPushNotificationConfig(push.which).then(() => "", (error) => error.name);
  console.log(
    JSON.stringify({
      streamed: streamed.map(shape),
      direct: direct.parts[0].content.value,
      before: before.map(shape),
      after: after.map(shape),
      asked: stateOf(asked),
      answered: [answered.id === asked.id, stateOf(answered)],
      canceled: stateOf(canceled),
      listed,
      missing,
    }),
  );
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

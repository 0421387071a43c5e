// The page: which conversation is shown, and what its controls do.

import * as answers from "./answers.js";
import * as conversations from "./conversations.js";
import { announce, byId, fitHeight } from "./dom.js";
import { askForKey, deletion, options } from "./dialogs.js";
import { download } from "./export.js";
import { Models } from "./models.js";
import { onKeyNeeded } from "./server.js";
import { Sidebar } from "./sidebar.js";
import { Transcript } from "./transcript.js";

const SETTLE = 5_000; // ms between two looks after the answers of conversations that are not shown

let current = conversations.blank();
let announced = ""; // the last line about an answer
const prompt = byId("prompt");
const transcript = new Transcript({ send, resend, regenerate, results });
const models = new Models((name) => keep({ model: name }));
const sidebar = new Sidebar({ open, begin });

// -- What is shown --------------------------------------------------------------------------------------------------

function open(id) {
  const conversation = conversations.get(id);
  if (!conversation) return begin();
  if (conversation.id !== current.id) leave();
  current = conversation;
  history.replaceState(null, "", `#${id}`);
  refresh();
}

function begin() {
  leave();
  current = conversations.blank(current.options.model ? { model: current.options.model } : {});
  history.replaceState(null, "", location.pathname + location.search);
  refresh();
  prompt.focus();
}

function leave() {
  for (const message of current.messages) answers.leave(message.id);
}

function refresh() {
  document.title = current.messages.length ? `${conversations.titleOf(current)} · Headrace` : "Headrace";
  transcript.show(current);
  models.choose(current.options.model);
  sidebar.show(current.id);
  for (const message of current.messages) answers.follow(current.id, message, progress);
  controls();
}

function progress(answer) {
  if (answer.status !== announced) announce(answer.status);
  announced = answer.status;
  transcript.refresh(answer);
  models.waiting = Boolean(answer.status);
}

function controls() {
  const running = Boolean(conversations.openAnswer(current));
  const calls = conversations.openCalls(current);
  byId("send").hidden = running;
  byId("send").disabled = Boolean(calls);
  byId("stop").hidden = !running;
  prompt.disabled = Boolean(calls);
  prompt.placeholder = calls ? "Answer the call above first" : "Write a message";
  for (const id of ["export-markdown", "export-json", "delete"]) byId(id).disabled = current.messages.length === 0;
}

conversations.watch((id) => {
  if (id !== undefined && id !== current.id) return sidebar.show(current.id);
  const stored = conversations.get(current.id);
  if (!stored && current.messages.length) return begin();
  const before = conversations.openAnswer(current);
  current = stored ?? current;
  refresh();
  const after = before && current.messages.find((message) => message.id === before.id);
  if (after && !conversations.isOpen(after)) announce({ done: "The answer is complete", stopped: "Stopped", failed: `The answer failed: ${after.error?.message}` }[after.state]);
});

// -- What the user does ---------------------------------------------------------------------------------------------

/** Stores the conversation as `change` makes it; tells the user where the browser does not store it. */
function store(change) {
  try {
    const stored = conversations.get(current.id) ?? current;
    change(stored);
    stored.changed = Date.now();
    current = stored;
    conversations.store(stored);
    history.replaceState(null, "", `#${stored.id}`);
    return true;
  } catch (error) {
    banner(error.message);
    return false;
  }
}

function keep(changes) {
  Object.assign(current.options, changes);
  if (current.messages.length) store((stored) => Object.assign(stored.options, changes));
}

function question(conversation) {
  const { temperature, topP, topK, maxTokens, seed, tools, toolChoice } = conversation.options;
  const given = { model: models.name, temperature, topP, topK, maxTokens, seed };
  // A demanded call is demanded once: with its result in hand the model must be free to answer.
  const results = conversation.messages.at(-1)?.role === "tool";
  const withTools = tools ? { tools: JSON.parse(tools), toolChoice: results ? undefined : toolChoice || undefined } : {};
  return answers.ask({ messages: conversations.asMessages(conversation), ...given, ...withTools });
}

function send(text) {
  if (!text.trim() || conversations.openAnswer(current)) return;
  const sent = store((conversation) => {
    conversation.messages.push({ id: conversations.newId(), role: "user", text });
    conversation.messages.push(question(conversation));
  });
  if (!sent) return;
  prompt.value = "";
  fitHeight(prompt);
  transcript.toEnd();
}

async function resend(messageId, text) {
  await stop();
  store((conversation) => {
    const index = conversation.messages.findIndex((message) => message.id === messageId);
    conversation.messages.splice(index, Infinity, { id: conversations.newId(), role: "user", text });
    conversation.messages.push(question(conversation));
  });
}

async function regenerate(messageId) {
  await stop();
  store((conversation) => {
    const index = conversation.messages.findIndex((message) => message.id === messageId);
    conversation.messages.splice(index);
    conversation.messages.push(question(conversation));
  });
}

function results(found) {
  store((conversation) => {
    for (const result of found) conversation.messages.push({ id: conversations.newId(), role: "tool", ...result });
    conversation.messages.push(question(conversation));
  });
  prompt.focus();
}

async function stop() {
  const running = conversations.openAnswer(current);
  if (running) await answers.stop(current.id, running);
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send(prompt.value);
});
byId("stop").addEventListener("click", stop);
byId("new").addEventListener("click", () => {
  sidebar.close();
  begin();
});
prompt.addEventListener("input", () => fitHeight(prompt));
prompt.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    send(prompt.value);
  } else if (event.key === "ArrowUp" && prompt.value === "") {
    event.preventDefault();
    transcript.editLast();
  }
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (byId("more").open) {
    byId("more").open = false;
    byId("more").querySelector("summary").focus();
  } else stop();
});

byId("options").addEventListener("click", async () => {
  const changed = await options(current);
  if (!changed) return;
  const { title, ...given } = changed;
  current.title = title;
  current.options = { ...given, model: current.options.model };
  if (current.messages.length) store((stored) => Object.assign(stored, { title, options: current.options }));
});
for (const form of ["markdown", "json"]) {
  byId(`export-${form}`).addEventListener("click", () => {
    byId("more").open = false;
    download(current, form);
  });
}
byId("delete").addEventListener("click", async () => {
  byId("more").open = false;
  if (!(await deletion())) return;
  stop();
  leave();
  conversations.remove(current.id);
  begin();
});
addEventListener("click", (event) => {
  if (!byId("more").contains(event.target)) byId("more").open = false;
});

// -- The way to the server ------------------------------------------------------------------------------------------

function banner(sentence) {
  byId("banner").textContent = sentence;
  byId("banner").hidden = !sentence;
}

const online = () => banner(navigator.onLine ? "" : "You are offline. Running answers go on at the server, and here as soon as you are back.");
addEventListener("online", online);
addEventListener("offline", online);
addEventListener("hashchange", () => open(location.hash.slice(1)));
onKeyNeeded(askForKey);

async function settleForEver() {
  for (;;) {
    if (!document.hidden) await answers.settle(conversations.all().filter((one) => one.id !== current.id)).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, SETTLE));
  }
}

online();
if (location.hash) open(location.hash.slice(1));
else refresh();
models.run();
settleForEver();

// The conversations of this browser: each under a key of its own in localStorage, which all tabs see. A change reads what
// is stored, changes it and writes it back in one go, so that tabs do not overwrite each other.

const PREFIX = "headrace.conversation.";
const watchers = new Set();

export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** `watcher(id)` is called after each change of a conversation, in this tab or another. */
export function watch(watcher) {
  watchers.add(watcher);
}

addEventListener("storage", ({ key }) => {
  if (key === null || key.startsWith(PREFIX)) tell(key?.slice(PREFIX.length));
});

function tell(id) {
  for (const watcher of watchers) watcher(id);
}

/** All of them, the newest first. */
export function all() {
  return Object.keys(localStorage)
    .filter((key) => key.startsWith(PREFIX))
    .map((key) => get(key.slice(PREFIX.length)))
    .filter(Boolean)
    .sort((a, b) => b.changed - a.changed);
}

/** The conversation, or null where there is none (any more). */
export function get(id) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + id));
  } catch {
    return null;
  }
}

/** A new one, which is not stored before it has a message. */
export function blank(options = {}) {
  return { id: newId(), title: "", changed: Date.now(), options, messages: [] };
}

/** Stores what `change` makes of the conversation, and returns it; null where it has been deleted. */
export function change(id, change) {
  const conversation = get(id);
  if (conversation === null) return null;
  change(conversation);
  return store(conversation);
}

export function store(conversation) {
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
  } catch {
    throw new Error("This browser's storage is full: export and delete old conversations");
  }
  tell(conversation.id);
  return conversation;
}

/** Changes one message, as long as it is there. */
export function changeMessage(id, messageId, fields) {
  return change(id, (conversation) => {
    const message = conversation.messages.find((one) => one.id === messageId);
    if (message) Object.assign(message, fields);
  });
}

export function remove(id) {
  localStorage.removeItem(PREFIX + id);
  tell(id);
}

export const isOpen = (message) => message?.state === "sending" || message?.state === "open";

export const openAnswer = (conversation) => conversation.messages.findLast(isOpen);

/** The last answer's calls, while they wait for their results. */
export function openCalls(conversation) {
  const last = conversation.messages.at(-1);
  return last?.role === "assistant" && last.state === "done" && last.toolCalls?.length ? last : null;
}

/** What the model is shown: the conversation in OpenAI's form. Answers that failed, or that say nothing, are left out. */
export function asMessages(conversation, before = conversation.messages.length) {
  const { system } = conversation.options;
  const sent = system ? [{ role: "system", content: system }] : [];
  for (const message of conversation.messages.slice(0, before)) {
    if (message.role === "user") sent.push({ role: "user", content: message.text });
    else if (message.role === "tool") sent.push({ role: "tool", tool_call_id: message.callId, content: message.text });
    else if (message.state === "done" && message.toolCalls?.length) {
      sent.push({ role: "assistant", content: message.text || null, tool_calls: message.toolCalls.map(asCall) });
    } else if (message.text && message.state !== "failed") sent.push({ role: "assistant", content: message.text });
  }
  return sent;
}

function asCall({ id, name, arguments: given }) {
  return { id, type: "function", function: { name, arguments: JSON.stringify(given) } };
}

export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user")?.text ?? "";
  return conversation.title || first.trim().split("\n")[0].slice(0, 80) || "New conversation";
}

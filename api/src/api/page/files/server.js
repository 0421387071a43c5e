// What the page says to the server: JSON-RPC, a task's events, Markdown. Addresses are relative: a proxy may serve the
// page below a path of its own.

import { messagesOf } from "./event-stream.js";

const KEY = "headrace.key"; // of sessionStorage: this tab's, gone with it
const SILENCE = 45_000; // ms; the server sends a comment every 15 s
const FIRST_PAUSE = 250; // ms
const LONGEST_PAUSE = 8_000;

/** The server said no, in words for the user. `retryable`: the same request may succeed later. */
export class Refusal extends Error {
  constructor({ code, message, data = {} }, status) {
    super(message);
    this.code = code;
    this.status = status;
    this.data = data;
    this.retryable = Boolean(data.retryable);
    this.pause = data.retryAfterSeconds === undefined ? null : data.retryAfterSeconds * 1000;
  }
}

/** Nobody answered, or a proxy did in the server's place. Always worth another try. */
export class Unreachable extends Error {}

/** Asks the user for an API key; resolves when there is a new one. Set by the page. */
let askForKey = async () => {};
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** A response of the server, whatever its status. An unknown key is asked for and the request sent again. */
async function send(path, options) {
  for (;;) {
    const used = key.get();
    const headers = used ? { ...options.headers, Authorization: `Bearer ${used}` } : options.headers;
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Unreachable("The server does not answer");
    }
    if (response.status !== 401) return response;
    await askForKey(used);
    options.signal?.throwIfAborted();
  }
}

async function refusal(response) {
  const reply = await response.json().catch(() => ({}));
  if (reply.error?.message) return new Refusal(reply.error, response.status);
  return new Unreachable(`Something in between answered with HTTP ${response.status}`);
}

/** The result of a method. Throws Refusal or Unreachable. */
export async function call(method, params = {}, signal = undefined) {
  const response = await send("rpc", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  const reply = await response.json().catch(() => ({}));
  if (reply.error) throw new Refusal(reply.error, response.status);
  if (!("result" in reply)) throw new Unreachable("Something in between answered");
  return reply.result;
}

/** Markdown as HTML that the server has made safe. */
export async function rendered(markdown) {
  const response = await send("page/markdown", {
    method: "POST",
    headers: { "Content-Type": "text/markdown" },
    body: markdown,
  });
  if (!response.ok) throw await refusal(response);
  return response.text();
}

/** Ms after which a passing failure is tried again: what the server asked for, or a growing pause with jitter. */
export class Backoff {
  #next = FIRST_PAUSE;
  after(error) {
    const pause = this.#next * (0.5 + Math.random() / 2);
    this.#next = Math.min(2 * this.#next, LONGEST_PAUSE);
    return error?.pause ?? pause;
  }
  reset() {
    this.#next = FIRST_PAUSE;
  }
}

/** Resolves after `ms`, at once when the browser is online again; throws when `signal` aborts. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const done = (finish) => () => {
      clearTimeout(timer);
      removeEventListener("online", woken);
      signal?.removeEventListener("abort", aborted);
      finish();
    };
    const woken = done(resolve);
    const aborted = done(() => reject(signal.reason));
    const timer = setTimeout(woken, ms);
    addEventListener("online", woken);
    signal?.addEventListener("abort", aborted);
    if (signal?.aborted) aborted();
  });
}

/**
 * A task's events from the first to `end`, each once, across replicas that go away, networks that do, and sleep.
 * `connected(false)` and `connected(true)` tell of the way there. Throws Refusal when it is over, or when `signal` aborts.
 */
export async function* eventsOf(task, signal, connected) {
  const backoff = new Backoff();
  let last = "";
  let asked = null;
  for (;;) {
    let failure = null;
    const connection = new Watched(signal);
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const response = await send(`stream/${encodeURIComponent(task)}`, { headers, signal: connection.signal });
      if (response.status === 204) return;
      if (!response.ok) throw await refusal(response);
      connected(true);
      for await (const message of messagesOf(response.body, () => connection.heard())) {
        if (message.retry !== undefined) asked = message.retry;
        if (!message.data) continue;
        last = message.id;
        backoff.reset();
        const event = JSON.parse(message.data);
        yield event;
        if (event.type === "end") return;
      }
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof Refusal && !error.retryable) throw error;
      failure = error;
    } finally {
      connection.close();
    }
    if (asked === null) connected(false); // a replica that stops has said so, and when to come again
    await pause(asked ?? backoff.after(failure), signal);
    asked = null;
  }
}

/** One connection, given up when nothing is heard for too long: also after sleep, when timers run again at once. */
class Watched {
  #control = new AbortController();
  #timer;
  #heard = Date.now();
  #woken = () => Date.now() - this.#heard > SILENCE / 2 && !document.hidden && this.#control.abort();

  constructor(signal) {
    this.signal = AbortSignal.any([signal, this.#control.signal]);
    document.addEventListener("visibilitychange", this.#woken);
    this.heard();
  }

  heard() {
    this.#heard = Date.now();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#control.abort(), SILENCE);
  }

  close() {
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#woken);
    this.#control.abort();
  }
}

// Answers under way. What is stored of one is enough to go on with it in any tab, after any reload: the request with its
// idempotency key until the server has accepted it, then the task's id.

import { Backoff, Refusal, call, eventsOf, pause } from "./server.js";
import { changeMessage, get, isOpen, newId } from "./conversations.js";

const followed = new Map(); // message id -> Answer

/** The live side of an answer that this tab follows; undefined of others. */
export const live = (messageId) => followed.get(messageId);

/** The fields of a new answer's message. */
export function ask(params) {
  return { id: newId(), role: "assistant", model: params.model ?? "", state: "sending", text: "", request: { ...params, idempotencyKey: newId() } };
}

/** Goes on with the answer; nothing where this tab does so already. `shown(answer)` is called after every change. */
export function follow(conversationId, message, shown) {
  if (!isOpen(message) || followed.has(message.id)) return;
  const answer = new Answer(conversationId, message, shown);
  followed.set(message.id, answer);
  shown(answer);
  answer.run().finally(() => followed.delete(message.id));
}

/** Stops following, in this tab; the task goes on. */
export function leave(messageId) {
  followed.get(messageId)?.leave();
}

export async function stop(conversationId, message) {
  const answer = followed.get(message.id);
  if (answer) return answer.stop();
  changeMessage(conversationId, message.id, { state: "stopped", request: undefined });
  if (message.taskId) await call("cancel_message", { taskId: message.taskId });
}

class Answer {
  #control = new AbortController();
  #conversationId;
  #shown;
  #stopping = false;

  constructor(conversationId, message, shown) {
    this.#conversationId = conversationId;
    this.#shown = shown;
    this.messageId = message.id;
    this.taskId = message.taskId;
    this.text = "";
    this.reasoning = "";
    this.notices = [];
    /** What is happening, in words; empty while text comes. */
    this.status = message.taskId ? "Connecting" : "Sending";
    this.kept = message.text; // of an earlier visit, shown until the stream has caught up
    this.request = message.request;
  }

  async run() {
    try {
      if (!this.taskId) await this.#send();
      await this.#read();
    } catch (error) {
      if (this.#control.signal.aborted) return;
      this.#fail(error);
    }
  }

  leave() {
    this.#control.abort();
  }

  async stop() {
    this.#stopping = true;
    if (this.taskId) {
      this.#say("Stopping");
      await this.#cancel();
    } else this.#store({ state: "stopped" }); // `#send` cancels what the server has accepted, should it say so
  }

  async #cancel() {
    const backoff = new Backoff();
    for (;;) {
      try {
        await call("cancel_message", { taskId: this.taskId }, this.#control.signal);
        return;
      } catch (error) {
        if (this.#control.signal.aborted || (error instanceof Refusal && !error.retryable)) return;
        await pause(backoff.after(error));
      }
    }
  }

  async #send() {
    const backoff = new Backoff();
    for (;;) {
      try {
        const { taskId } = await call("create_message", this.request, this.#control.signal);
        this.taskId = taskId;
        if (this.#stopping) {
          await this.#cancel();
          this.#control.abort();
          this.#control.signal.throwIfAborted();
        }
        changeMessage(this.#conversationId, this.messageId, { state: "open", taskId, request: undefined });
        this.#say("Waiting");
        return;
      } catch (error) {
        this.#control.signal.throwIfAborted();
        if (this.#stopping) this.#control.abort();
        if (error instanceof Refusal && !error.retryable) throw error;
        const wait = backoff.after(error);
        this.#say(`${error.message.replace(/\.$/, "")}; trying again${wait > 1500 ? ` in ${Math.round(wait / 1000)} s` : ""}`);
        await pause(wait, this.#control.signal);
      }
    }
  }

  async #read() {
    let before = this.status;
    const connected = (yes) => {
      if (yes && this.connectionLost) this.#say(before);
      else if (!yes && !this.connectionLost) before = this.status;
      this.connectionLost = !yes;
      if (!yes) this.#say("The connection is lost; the answer goes on at the server. Reconnecting");
    };
    let outcome = null;
    for await (const event of eventsOf(this.taskId, this.#control.signal, connected)) {
      if (event.type === "token") this.#token(event);
      else if (event.type === "status") this.#state(event);
      else if (event.type === "end") return this.#end(endOf(event, outcome, this));
      else outcome = event;
    }
    throw new Error("The stream of this answer has ended without its end");
  }

  #token(event) {
    this.text += event.text;
    this.reasoning += event.reasoning ?? "";
    this.kept = "";
    this.#say("");
  }

  #state(event) {
    if (event.guard?.reason && !this.notices.includes(event.guard.reason)) this.notices.push(event.guard.reason);
    if (event.state === "STARTED") {
      if (event.restart) {
        this.text = this.reasoning = "";
        this.notices.push("Another revision of the model began the answer anew.");
      }
      this.#say(event.attempt > 1 ? "Another worker goes on" : "Thinking");
    } else if (event.state === "RETRY") this.#say("Its worker was lost or stopped; another one goes on where it was");
    else if (event.state === "PENDING") {
      const place = event.position ? `Waiting, position ${event.position}` : "Waiting";
      this.#say(event.detail ? `${place}: ${event.detail}` : place);
    }
  }

  #say(status) {
    this.status = status;
    this.#shown(this);
  }

  #fail(error) {
    const gone = error instanceof Refusal && [404, 410].includes(error.status);
    this.#end({
      state: "failed",
      text: this.text || this.kept,
      error: {
        code: error.code ?? "",
        message: gone ? `The server does not have this answer (any more): ${error.message}` : error.message,
        retryable: true,
      },
    });
  }

  #end(fields) {
    this.#control.abort();
    this.#store(fields);
  }

  #store(fields) {
    followed.delete(this.messageId);
    const kept = { reasoning: this.reasoning || undefined, notices: this.notices.length ? this.notices : undefined };
    changeMessage(this.#conversationId, this.messageId, { ...kept, ...fields, request: undefined });
  }

  /** The page goes away: what is here is all that there is, should the server have forgotten it until the next visit. */
  keep() {
    const stored = get(this.#conversationId)?.messages.find((message) => message.id === this.messageId);
    if (isOpen(stored) && this.text) changeMessage(this.#conversationId, this.messageId, { text: this.text });
  }
}

addEventListener("pagehide", () => {
  for (const answer of followed.values()) answer.keep();
});

/** The fields of an ended answer. `so`: text so far, of an answer without an outcome. */
function endOf({ state }, outcome, so) {
  if (state === "REVOKED") return { state: "stopped", text: so.text };
  if (outcome === null) return { state: "failed", text: so.text, error: { code: "", message: "The task ended without an answer", retryable: true } };
  if (outcome.type === "error") {
    const { code, message, retryable, traceId } = outcome;
    return { state: "failed", text: so.text, error: { code, message, retryable, traceId } };
  }
  const { text, reasoning, toolCalls, finishReason, usage, timings } = outcome;
  return { state: "done", text, reasoning, toolCalls, finishReason, usage, timings };
}

/** Ends what conversations that nobody looks at have under way, where it has ended at the server. */
export async function settle(conversations) {
  for (const conversation of conversations) {
    for (const message of conversation.messages.filter((one) => one.state === "open" && !followed.has(one.id))) {
      let view;
      try {
        view = await call("get_message", { taskId: message.taskId });
      } catch (error) {
        if (error instanceof Refusal && !error.retryable) {
          changeMessage(conversation.id, message.id, { state: "failed", error: { code: error.code, message: error.message, retryable: true } });
        }
        continue;
      }
      if (!["SUCCESS", "FAILURE", "REVOKED"].includes(view.state)) continue;
      const outcome = view.error ? { type: "error", ...view.error } : (view.result ?? null);
      changeMessage(conversation.id, message.id, endOf(view, outcome, view));
    }
  }
}

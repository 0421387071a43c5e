// The messages of the conversation that is shown. An element stays as long as its message does, so that neither focus nor
// selection is lost while an answer streams.

import { live } from "./answers.js";
import { isOpen, openCalls } from "./conversations.js";
import { byId, copyButton, element, fitHeight } from "./dom.js";
import { Markdown } from "./markdown.js";

const NEAR = 80; // px from the end within which the view follows the text
const CUT = {
  length: "Cut off: the limit of tokens or the model's context was reached.",
  loop: "Stopped: the model repeated itself.",
};

export class Transcript {
  #views = new Map();
  #actions;
  #conversation = null;
  #follows = true;

  /** `actions`: what the buttons do; see main.js. */
  constructor(actions) {
    this.#actions = actions;
    this.root = byId("transcript");
    this.scroller = byId("scroller");
    this.scroller.addEventListener("scroll", () => {
      this.#follows = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR;
      byId("latest").hidden = this.#follows;
    });
    byId("latest").addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.#follows && this.#scroll()).observe(this.root);
  }

  show(conversation) {
    const other = conversation.id !== this.#conversation?.id;
    this.#conversation = conversation;
    if (other) {
      this.#views.clear();
      this.root.replaceChildren();
    }
    if (conversation.messages.length === 0) this.root.replaceChildren(this.#welcome());
    else this.root.querySelector(".welcome")?.remove();
    const ids = new Set(conversation.messages.map((message) => message.id));
    for (const [id, view] of this.#views) {
      if (ids.has(id)) continue;
      view.root.remove();
      this.#views.delete(id);
    }
    conversation.messages.forEach((message, index) => this.#update(message, index));
    if (other) this.toEnd();
  }

  /** An answer has gone on. */
  refresh(answer) {
    const message = this.#conversation?.messages.find((one) => one.id === answer.messageId);
    if (message) this.#views.get(message.id)?.update(message, this.#conversation);
  }

  toEnd() {
    this.#follows = true;
    byId("latest").hidden = true;
    this.#scroll();
  }

  editLast() {
    const last = this.#conversation.messages.findLast((message) => message.role === "user");
    if (last) this.#views.get(last.id).edit();
  }

  #scroll() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #update(message, index) {
    let view = this.#views.get(message.id);
    if (!view) {
      view = new { user: UserView, tool: ToolView, assistant: AnswerView }[message.role](message, this.#actions);
      this.#views.set(message.id, view);
    }
    view.update(message, this.#conversation);
    if (this.root.children[index] !== view.root) this.root.insertBefore(view.root, this.root.children[index] ?? null);
  }

  #welcome() {
    const prompts = ["What is the capital of France?", "Write a Python function that says hello.", "What is a river? Answer in one sentence."];
    return element(
      "div",
      { class: "welcome" },
      element("h1", {}, "What would you like to know?"),
      element("p", { class: "quiet" }, "An answer survives everything: reload the page, close the lid, restart the server. It goes on where it was."),
      element("div", { class: "ideas" }, ...prompts.map((text) => element("button", { type: "button", onclick: () => this.#actions.send(text) }, text))),
    );
  }
}

class UserView {
  constructor(message, actions) {
    this.actions = actions;
    this.body = element("div", { class: "body plain", dir: "auto" });
    this.tools = element(
      "div",
      { class: "tools" },
      element("button", { type: "button", class: "bare small", onclick: () => this.edit() }, "Edit"),
      copyButton(() => this.message.text),
    );
    this.root = element("article", { class: "message user", "aria-label": "You", "data-id": message.id }, this.body, this.tools);
  }

  update(message) {
    this.message = message;
    if (this.body.textContent !== message.text) this.body.textContent = message.text;
  }

  edit() {
    if (this.form) return;
    const area = element("textarea", { dir: "auto", "aria-label": "Edit your message" });
    area.value = this.message.text;
    const close = () => {
      this.form.replaceWith(this.body, this.tools);
      this.form = null;
    };
    const send = (event) => {
      event.preventDefault();
      if (!area.value.trim()) return;
      close();
      this.actions.resend(this.message.id, area.value);
    };
    this.form = element(
      "form",
      { class: "edit", onsubmit: send },
      area,
      element(
        "div",
        { class: "actions" },
        element("span", { class: "small quiet" }, "What follows it is replaced."),
        element("span", { class: "gap" }),
        element("button", { type: "button", onclick: close }, "Cancel"),
        element("button", { type: "submit", class: "main" }, "Send again"),
      ),
    );
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
    });
    area.addEventListener("input", () => fitHeight(area));
    this.tools.remove();
    this.body.replaceWith(this.form);
    fitHeight(area);
    area.focus();
  }
}

class ToolView {
  constructor(message) {
    this.root = element(
      "article",
      { class: "message tool", "aria-label": `Result of ${message.name}`, "data-id": message.id },
      element("p", { class: "small quiet" }, `Result of ${message.name}`),
      element("pre", { class: "plain", dir: "auto", tabindex: 0 }, message.text || "(nothing)"),
    );
  }

  update() {}
}

class AnswerView {
  constructor(message, actions) {
    this.actions = actions;
    this.body = element("div", { class: "body prose", dir: "auto" });
    this.markdown = new Markdown(this.body);
    this.thoughts = element("div", { class: "plain", dir: "auto" });
    this.reasoning = element("details", { class: "reasoning", hidden: true }, element("summary", {}, "Reasoning"), this.thoughts);
    this.calls = element("div", { class: "calls" });
    this.notices = element("div", { class: "notices" });
    this.status = element("p", { class: "status", hidden: true }, element("span", { class: "pulse", "aria-hidden": "true" }), element("span", { class: "words" }));
    this.problem = element("div", { class: "problem", role: "alert", hidden: true });
    this.facts = element("span", { class: "small quiet facts" });
    this.again = element("button", { type: "button", class: "bare small", onclick: () => actions.regenerate(this.message.id) }, "Regenerate");
    this.copying = copyButton(() => this.markdown.text);
    this.tools = element("div", { class: "tools" }, this.copying, this.again, this.facts);
    this.root = element(
      "article",
      { class: "message assistant", "aria-label": message.model ? `Answer of ${message.model}` : "Answer", "data-id": message.id },
      this.reasoning,
      this.body,
      this.calls,
      this.notices,
      this.problem,
      this.status,
      this.tools,
    );
  }

  update(message, conversation) {
    this.message = message;
    const open = isOpen(message);
    const answer = open ? live(message.id) : undefined;
    this.root.setAttribute("aria-busy", String(open));
    this.root.dataset.state = message.state;
    this.markdown.set(answer ? answer.text || answer.kept : message.text, !open);
    const thoughts = (answer ?? message).reasoning ?? "";
    this.reasoning.hidden = !thoughts;
    if (this.thoughts.textContent !== thoughts) this.thoughts.textContent = thoughts;
    const status = answer?.status ?? (open ? "Waiting" : "");
    this.status.hidden = !status;
    this.status.lastChild.textContent = status;
    this.#notices(message, answer);
    this.#calls(message, conversation);
    this.problem.hidden = message.state !== "failed";
    if (message.state === "failed") this.#problem(message);
    const last = conversation.messages.at(-1) === message;
    this.tools.hidden = open;
    this.copying.hidden = !message.text;
    this.again.hidden = !last || message.state === "failed";
    this.facts.textContent = factsOf(message);
  }

  #notices(message, answer) {
    const told = [...((answer ?? message).notices ?? [])];
    if (message.state === "stopped") told.push("Stopped.");
    if (CUT[message.finishReason]) told.push(CUT[message.finishReason]);
    const lines = told.map((text) => element("p", { class: "notice" }, text));
    if (this.notices.textContent !== told.join("")) this.notices.replaceChildren(...lines);
  }

  #problem({ error }) {
    const again = element("button", { type: "button", onclick: () => this.actions.regenerate(this.message.id) }, "Try again");
    const code = [error.code, error.traceId && `trace ${error.traceId}`].filter(Boolean).join(" · ");
    this.problem.replaceChildren(
      element("p", {}, error.message),
      element("div", { class: "row" }, again, code ? element("span", { class: "small quiet" }, code) : null),
    );
  }

  /** The calls, and while they are the conversation's end, where to type their results. */
  #calls(message, conversation) {
    if (message.state !== "done" || !message.toolCalls?.length) return this.calls.replaceChildren();
    const open = openCalls(conversation) === message;
    const key = `${message.id} ${open}`;
    if (this.calls.dataset.key === key) return;
    this.calls.dataset.key = key;
    const areas = new Map();
    const cards = message.toolCalls.map((call) => {
      const card = element(
        "section",
        { class: "call", "aria-label": `Call of ${call.name}` },
        element("p", {}, element("span", { class: "small quiet" }, "calls "), element("code", {}, call.name)),
        element("pre", { dir: "auto", tabindex: 0 }, JSON.stringify(call.arguments, null, 2)),
      );
      if (open) {
        const area = element("textarea", { rows: 2, dir: "auto", placeholder: "What the tool answers" });
        area.addEventListener("input", () => fitHeight(area));
        areas.set(call, area);
        card.append(element("label", { class: "small" }, `Result of ${call.name}`, area));
      }
      return card;
    });
    const form = element("form", {}, ...cards);
    if (open) form.append(element("div", { class: "actions" }, element("span", { class: "gap" }), element("button", { type: "submit", class: "main" }, areas.size > 1 ? "Send the results" : "Send the result")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.actions.results(message.toolCalls.map((call) => ({ callId: call.id, name: call.name, text: areas.get(call).value })));
    });
    this.calls.replaceChildren(form);
    if (open) areas.values().next().value.focus({ preventScroll: true });
  }
}

function factsOf({ state, usage, timings, model }) {
  if (state !== "done" || !usage) return "";
  const facts = [model, `${usage.completionTokens} tokens`];
  const seconds = timings.firstToken === undefined ? 0 : timings.total - timings.firstToken;
  if (seconds > 0 && usage.completionTokens > 1) facts.push(`${Math.round((usage.completionTokens - 1) / seconds)} per second`);
  if (timings.firstToken !== undefined) facts.push(`first after ${timings.firstToken.toFixed(1)} s`);
  return facts.filter(Boolean).join(" · ");
}

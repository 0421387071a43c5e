// The dialogs: options of a conversation, the API key, whether to delete.

import { byId } from "./dom.js";
import { call, key } from "./server.js";

const NUMBERS = ["temperature", "topP", "topK", "maxTokens", "seed"];

/** Opens a dialog; resolves to its form when it is sent, to null when it is closed. */
function opened(dialog, check = () => true) {
  const form = dialog.querySelector("form");
  return new Promise((resolve) => {
    const control = new AbortController();
    const { signal } = control;
    let sent = null;
    form.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        if (!check(form)) return;
        sent = form;
        dialog.close();
      },
      { signal },
    );
    form.querySelector("[value=cancel]")?.addEventListener("click", () => dialog.close(), { signal });
    dialog.addEventListener(
      "close",
      () => {
        control.abort();
        resolve(sent);
      },
      { signal },
    );
    dialog.showModal();
    dialog.scrollTop = 0; // not where it was left
  });
}

function problem(form, sentence) {
  const line = form.querySelector(".problem");
  line.textContent = sentence;
  line.hidden = !sentence;
}

/** The title and the options that the user gives the conversation; null: none. */
export async function options(conversation) {
  const dialog = byId("options-dialog");
  const form = dialog.querySelector("form");
  const fields = form.elements;
  fields.title.value = conversation.title;
  for (const name of ["system", "tools", "toolChoice", ...NUMBERS]) fields[name].value = conversation.options[name] ?? "";
  problem(form, "");
  byId("forget-key").hidden = !key.get();
  byId("forget-key").onclick = () => {
    key.forget();
    location.reload();
  };
  byId("catalogue").onclick = async () => {
    try {
      const tools = await call("tool_list");
      if (tools.length === 0) problem(form, "The server announces no tools.");
      else fields.tools.value = JSON.stringify(tools, null, 2);
    } catch (error) {
      problem(form, error.message);
    }
  };
  const sent = await opened(dialog, () => {
    const fault = faultOf(fields.tools.value);
    problem(form, fault);
    if (fault) fields.tools.focus();
    return !fault;
  });
  if (!sent) return null;
  const given = { title: fields.title.value.trim() };
  for (const name of ["system", "tools"]) if (fields[name].value.trim()) given[name] = fields[name].value;
  if (fields.toolChoice.value) given.toolChoice = fields.toolChoice.value;
  for (const name of NUMBERS) if (fields[name].value !== "") given[name] = Number(fields[name].value);
  return given;
}

/** What is wrong with declarations, as far as it shows here; the server judges them when they are sent. */
function faultOf(text) {
  if (!text.trim()) return "";
  try {
    return Array.isArray(JSON.parse(text)) ? "" : "The declarations must be a JSON list.";
  } catch (error) {
    return `The declarations are not JSON: ${error.message}`;
  }
}

let asking = null;

/** Asks for a key where `refused` is still the one in use; once for all who need one at that moment. */
export function askForKey(refused) {
  if (key.get() !== refused) return Promise.resolve();
  asking ??= (async () => {
    const dialog = byId("key-dialog");
    const form = dialog.querySelector("form");
    problem(form, refused ? "The server does not know this key." : "");
    form.elements.key.value = "";
    while (!(await opened(dialog)));
    key.set(form.elements.key.value.trim());
    form.elements.key.value = "";
  })().finally(() => (asking = null));
  return asking;
}

export async function deletion() {
  return Boolean(await opened(byId("delete-dialog")));
}

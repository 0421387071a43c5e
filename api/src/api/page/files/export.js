// A conversation as a file of the user's.

import { titleOf } from "./conversations.js";
import { element } from "./dom.js";

/** `form`: `markdown`, to read, or `json`, with everything. */
export function download(conversation, form) {
  const [text, type, ending] = form === "json" ? [JSON.stringify(conversation, null, 2), "application/json", "json"] : [asMarkdown(conversation), "text/markdown", "md"];
  const address = URL.createObjectURL(new Blob([text], { type }));
  const name = titleOf(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";
  element("a", { href: address, download: `${name}.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function asMarkdown(conversation) {
  const parts = [`# ${titleOf(conversation)}`];
  if (conversation.options.system) parts.push("## System", conversation.options.system);
  for (const message of conversation.messages) {
    if (message.role === "user") parts.push("## You", message.text);
    else if (message.role === "tool") parts.push(`## Result of ${message.name}`, fenced(message.text));
    else {
      parts.push(`## ${message.model || "Answer"}`);
      if (message.text) parts.push(message.text);
      for (const call of message.toolCalls ?? []) parts.push(`Calls \`${call.name}\`:`, fenced(JSON.stringify(call.arguments, null, 2)));
      if (message.state === "stopped") parts.push("*Stopped.*");
      if (message.error) parts.push(`*Failed: ${message.error.message}*`);
    }
  }
  return `${parts.join("\n\n")}\n`;
}

/** In a fence that is longer than any in the text. */
function fenced(text) {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((ticks) => ticks.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}

// What somebody wrote → blocks and spans. Pure, and linear in the length of the text whatever it is: a
// scanner moves on by what it looked at, and hardly ever looks in vain.
//
// There is no markup language here: links, code, and :shortcodes: for emoji. Everything else is text.
import { EMOJI } from "./emoji.ts";

export type Span =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "code"; readonly text: string }
  /** `href` is normalised by the URL parser; `text` is as it was written. */
  | { readonly kind: "link"; readonly text: string; readonly href: string };

export type Block =
  | { readonly kind: "text"; readonly spans: readonly Span[] }
  | { readonly kind: "code"; readonly text: string; readonly language: string };

/** More spans than this are not looked for: a message of 64 KiB could have 10,000 links. */
const SPANS_MAX = 500;
const LINK_LENGTH_MAX = 2_048;

export function parse(source: string): Block[] {
  const blocks: Block[] = [];
  const budget = { spans: SPANS_MAX };
  let at = 0;
  let text = 0;
  // Fences only begin at the start of a line.
  while (at < source.length) {
    const lineEnd = endOfLine(source, at);
    const fence = source.startsWith("```", at) && budget.spans > 0 ? closeFence(source, at, lineEnd) : undefined;
    if (fence === undefined) {
      at = lineEnd + 1;
      continue;
    }
    pushText(blocks, source.slice(text, at), budget);
    blocks.push({ kind: "code", text: fence.text, language: fence.language });
    budget.spans--;
    at = text = fence.end;
  }
  pushText(blocks, source.slice(text), budget);
  return blocks;
}

/** The address if a link may go there: http, https or mailto, without a user name or a password. */
export function safeHref(candidate: string): string | undefined {
  if (candidate.length > LINK_LENGTH_MAX || !/^(?:https?:\/\/[^/?#]|mailto:[^?]+@)/i.test(candidate)) return undefined;
  let url: URL;
  try {
    url = new URL(candidate);
  } catch {
    return undefined;
  }
  if (url.protocol !== "http:" && url.protocol !== "https:" && url.protocol !== "mailto:") return undefined;
  // "https://bank.example@evil.example" reads as another place than it leads to.
  if (url.username !== "" || url.password !== "") return undefined;
  return url.href;
}

interface Fence {
  text: string;
  language: string;
  /** Where the text goes on. */
  end: number;
}

function closeFence(source: string, open: number, lineEnd: number): Fence | undefined {
  const first = source.slice(open + 3, lineEnd);
  const inLine = first.lastIndexOf("```");
  if (inLine > 0 && first.slice(inLine + 3).trim() === "") {
    return { text: first.slice(0, inLine).trim(), language: "", end: lineEnd + 1 };
  }
  const language = first.trim();
  if (language.includes("`")) return undefined;
  const close = source.indexOf("\n```", open + 3);
  // That is so only for the last fence, so no text makes this search more than once in vain.
  if (close < 0) return undefined;
  let end = close + 4;
  while (end < source.length && (source[end] === " " || source[end] === "`")) end++;
  if (source[end] === "\n") end++;
  const named = /^[\w+#.-]{1,20}$/.test(language);
  // What is no name of a language is the first line of the code.
  const begin = named || language === "" ? Math.min(lineEnd + 1, close) : open + 3;
  return { text: source.slice(begin, close), language: named ? language : "", end };
}

function pushText(blocks: Block[], text: string, budget: { spans: number }): void {
  const trimmed = blocks.length > 0 ? text.replace(/^\n+/, "") : text;
  if (trimmed.trim() === "" && (blocks.length > 0 || text === "")) return;
  blocks.push({ kind: "text", spans: spansOf(trimmed, budget) });
}

/** What can begin a span. */
const OPENING = /[`:hHmM]/g;

function spansOf(text: string, budget: { spans: number }): Span[] {
  const spans: Span[] = [];
  let plain = "";
  let from = 0;
  const flush = (to: number) => {
    plain += text.slice(from, to);
    from = to;
  };
  const push = (span: Span, begin: number, end: number) => {
    flush(begin);
    if (plain !== "") spans.push({ kind: "text", text: plain });
    plain = "";
    spans.push(span);
    from = end;
    budget.spans--;
  };

  OPENING.lastIndex = 0;
  for (let found = OPENING.exec(text); found !== null && budget.spans > 0; found = OPENING.exec(text)) {
    const at = found.index;
    const char = found[0];
    if (char === "`") {
      const ticks = runLength(text, at);
      OPENING.lastIndex = at + ticks;
      if (ticks > 2) continue;
      // In vain only for the last run of its length in a line.
      const close = closeTicks(text, at + ticks, endOfLine(text, at), ticks);
      if (close < 0) continue;
      const code = text.slice(at + ticks, close);
      push({ kind: "code", text: ticks === 2 && code.trim() !== "" ? code.trim() : code }, at, close + ticks);
    } else if (char === ":") {
      const end = shortcodeEnd(text, at);
      const emoji = end > 0 ? EMOJI.get(text.slice(at + 1, end)) : undefined;
      if (emoji === undefined) continue;
      flush(at);
      plain += emoji;
      from = end + 1;
    } else {
      const end = linkEnd(text, at);
      if (end === 0) continue;
      const written = trimLink(text.slice(at, end));
      const href = safeHref(written);
      OPENING.lastIndex = href === undefined ? end : at + written.length;
      if (href !== undefined) push({ kind: "link", text: written, href }, at, at + written.length);
      continue;
    }
    OPENING.lastIndex = Math.max(from, at + 1);
  }
  flush(text.length);
  if (plain !== "") spans.push({ kind: "text", text: plain });
  return spans;
}

function endOfLine(text: string, at: number): number {
  const end = text.indexOf("\n", at);
  return end < 0 ? text.length : end;
}

function runLength(text: string, at: number): number {
  let end = at;
  while (text[end] === "`") end++;
  return end - at;
}

/** Where a run of exactly `ticks` backticks begins; -1 if none does before `end`. */
function closeTicks(text: string, from: number, end: number, ticks: number): number {
  for (let at = text.indexOf("`", from); at >= 0 && at < end; ) {
    const length = runLength(text, at);
    if (length === ticks && at > from) return at;
    at = text.indexOf("`", at + length);
  }
  return -1;
}

/** Where the second colon of a shortcode is; 0 if there is no shortcode here. */
function shortcodeEnd(text: string, at: number): number {
  if (at > 0 && /[\w:]/.test(text[at - 1]!)) return 0;
  let end = at + 1;
  while (end < at + 34 && /[a-z0-9_+-]/.test(text[end] ?? "")) end++;
  return end > at + 1 && text[end] === ":" ? end : 0;
}

const SCHEME = /https?:\/\/|mailto:/iy;
/** Ends an address: space, quotes and brackets that no address has, controls, and what turns the
 * direction of writing around (an address must read as it is). */
const NOT_IN_LINK = /[\s<>"`{}|\\^\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Where a word that begins with a scheme ends; 0 if none begins here. */
function linkEnd(text: string, at: number): number {
  if (at > 0 && /[A-Za-z0-9_]/.test(text[at - 1]!)) return 0;
  SCHEME.lastIndex = at;
  if (!SCHEME.test(text)) return 0;
  NOT_IN_LINK.lastIndex = at;
  return NOT_IN_LINK.exec(text)?.index ?? text.length;
}

/** Without the punctuation of the sentence around it: "(see https://a.example/b_(c))." */
function trimLink(word: string): string {
  const open = { ")": 0, "]": 0 };
  for (const char of word) {
    if (char === "(") open[")"]++;
    else if (char === "[") open["]"]++;
    else if (char === ")" || char === "]") open[char]--;
  }
  let end = word.length;
  for (; end > 0; end--) {
    const char = word[end - 1]!;
    if (char === ")" || char === "]") {
      if (open[char] >= 0) break;
      open[char]++;
    } else if (!/[.,:;!?'*_~…。、，！？]/.test(char)) break;
  }
  return word.slice(0, end);
}

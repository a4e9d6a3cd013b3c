// Blocks and spans → nodes. Everything a person wrote becomes a text node; the one attribute made of
// it is the address of a link, and `safeHref` let that through.
import { h } from "../dom.ts";
import { type Block, parse, type Span } from "./parse.ts";

/** The nodes of a message's text, each isolated from the direction of what is around it. */
export function renderText(source: string): HTMLElement[] {
  return parse(source).map(renderBlock);
}

function renderBlock(block: Block): HTMLElement {
  if (block.kind === "text") return h("div", { class: "text", dir: "auto" }, ...block.spans.map(renderSpan));
  return h(
    "pre",
    // It may scroll sideways, so the keyboard must reach it.
    { class: "code", dir: "ltr", tabindex: 0, role: "region", aria: { label: block.language === "" ? "Code" : `Code, ${block.language}` } },
    h("code", {}, block.text),
  );
}

function renderSpan(span: Span): Node {
  switch (span.kind) {
    case "text":
      return document.createTextNode(span.text);
    case "code":
      return h("code", {}, span.text);
    case "link":
      return h(
        "a",
        {
          href: span.href,
          rel: "noopener noreferrer nofollow",
          target: "_blank",
          // An address that reads as another one (xn--…, upper case) says where it really leads.
          title: span.href === span.text || span.href === `${span.text}/` ? undefined : span.href,
        },
        h("bdi", {}, span.text),
      );
  }
}

const FEW_EMOJI =
  /^(?:\p{Extended_Pictographic}[\ufe0f\u{1f3fb}-\u{1f3ff}]*(?:\u200d\p{Extended_Pictographic}[\ufe0f\u{1f3fb}-\u{1f3ff}]*)*|\p{Regional_Indicator}{2}){1,3}$/u;

/** A few emoji and nothing else: shown larger. */
export function isOnlyEmoji(source: string): boolean {
  if (source.length > 48) return false;
  const blocks = parse(source.trim());
  const spans = blocks.length === 1 && blocks[0]!.kind === "text" ? blocks[0]!.spans : [];
  const span = spans.length === 1 ? spans[0]! : undefined;
  return span?.kind === "text" && FEW_EMOJI.test(span.text.replace(/\s/g, ""));
}

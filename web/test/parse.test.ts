import assert from "node:assert/strict";
import { test } from "node:test";
import { type Block, parse, safeHref, type Span } from "../src/text/parse.ts";

function links(text: string): string[] {
  return parse(text).flatMap((block) => (block.kind === "text" ? block.spans : [])).flatMap((span) => (span.kind === "link" ? [span.href] : []));
}

function spans(text: string): readonly Span[] {
  const [block] = parse(text);
  assert.equal(block?.kind, "text");
  return block.kind === "text" ? block.spans : [];
}

/** What a reader sees, without the signs that make code. */
function seen(blocks: readonly Block[]): string {
  return blocks.map((block) => (block.kind === "code" ? block.text : block.spans.map((span) => span.text).join(""))).join("");
}

const MARKUP = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "<svg onload=alert(1)>",
  "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
  "\"><img src=x onerror=alert(1)>",
  "'-alert(1)-'",
  "</script><script>alert(1)</script>",
  "<iframe srcdoc='<script>alert(1)</script>'>",
  "<math><mi//xlink:href=\"data:x,<script>alert(4)</script>\">",
  "<a href=\"jav&#x09;ascript:alert(1)\">x</a>",
  "<style>@import'//evil.example/x.css';</style>",
  "<div style=\"background:url(javascript:alert(1))\">",
  "![x](https//x\" onerror=\"alert(1))",
  "[x](javascript:alert(1))",
  "{{constructor.constructor('alert(1)')()}}",
  "&lt;script&gt;alert(1)&lt;/script&gt;",
  "\u0000<\u0000script>",
  "<IMG SRC=&#106;&#97;&#118;&#97;&#115;&#99;&#114;&#105;&#112;&#116;&#58;alert(1)>",
];

test("markup stays the text that it is", () => {
  for (const text of MARKUP) {
    assert.equal(seen(parse(text)), text, JSON.stringify(text));
    assert.deepEqual(links(text), [], JSON.stringify(text));
  }
});

test("an address that could run or hide something is no link", () => {
  const addresses = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "java\nscript:alert(1)",
    "\u0001javascript:alert(1)",
    " javascript:alert(1)",
    "javascript&colon;alert(1)",
    "javascript&#58;alert(1)",
    "&#106;avascript:alert(1)",
    "javascript\u00a0:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "vbscript:msgbox(1)",
    "file:///etc/passwd",
    "about:blank",
    "//evil.example/",
    "/relative",
    "http:relative",
    "http:///evil.example",
    "http://",
    "https://?q",
    "mailto:",
    "mailto:?body=x",
    "https://bank.example@evil.example/",
    "https://user:secret@evil.example/",
    "http\t://example.org",
    "ht\ntp://example.org",
    "https://example.org:99999/",
    `https://example.org/${"a".repeat(3_000)}`,
  ];
  for (const address of addresses) {
    assert.deepEqual(links(address), [], JSON.stringify(address));
    assert.equal(safeHref(address), undefined, JSON.stringify(address));
  }
  // In a text these have an honest address within them; as a whole they are none.
  for (const address of ["blob:https://example.org/x", "view-source:https://example.org/", "https://exa mple.org:port/"]) {
    assert.equal(safeHref(address), undefined, address);
  }
});

test("every link that is made goes to http, https or mailto and cannot leave its attribute", () => {
  const parts = ["http://", "https://", "HTTPS://", "mailto:", "javascript:", "data:", "\t", "\n", "\"", "'", "<", ">", "&#58;", "%0a", "\u202e", "@", "#", "a", "b.example", "/", "?x=", ":8080", "`", "```", ")", "(", "\\", "\u0000"];
  let state = 1;
  const below = (n: number) => (state = (state * 48_271) % 2_147_483_647) % n;
  let made = 0;
  for (let i = 0; i < 30_000; i++) {
    const text = Array.from({ length: 1 + below(10) }, () => parts[below(parts.length)]!).join("");
    for (const href of links(text)) {
      made++;
      assert.match(href, /^(?:https?:\/\/|mailto:)[^\s"<>\u0000-\u001f\u202e]*$/, JSON.stringify(text));
      const url = new URL(href);
      assert.ok(["http:", "https:", "mailto:"].includes(url.protocol), JSON.stringify(text));
      assert.equal(url.username + url.password, "", JSON.stringify(text));
    }
  }
  assert.ok(made > 1_000, `only ${made} links were made`);
});

test("a link ends before the punctuation of its sentence", () => {
  const cases: [string, string[]][] = [
    ["see https://example.org.", ["https://example.org/"]],
    ["(https://example.org/a_(b))", ["https://example.org/a_(b)"]],
    ["\"https://example.org/x\"", ["https://example.org/x"]],
    ["<https://example.org/x>", ["https://example.org/x"]],
    ["https://a.example, https://b.example!", ["https://a.example/", "https://b.example/"]],
    ["見てhttps://example.org/ね。", ["https://example.org/%E3%81%AD"]],
    ["xhttps://example.org", []],
    ["mail mailto:ops@example.org?", ["mailto:ops@example.org"]],
    ["https://example.org/a\u202eb", ["https://example.org/a"]],
    ["`https://example.org`", []],
    ["https://[::1]:80/x", ["https://[::1]:80/x"]],
  ];
  for (const [text, expected] of cases) assert.deepEqual(links(text), expected, text);
});

test("backticks make code only in pairs on one line", () => {
  assert.deepEqual(spans("a `b` c"), [{ kind: "text", text: "a " }, { kind: "code", text: "b" }, { kind: "text", text: " c" }]);
  assert.deepEqual(spans("``a`b``"), [{ kind: "code", text: "a`b" }]);
  for (const text of ["a ` b", "`a\nb`", "``", "`", "a``b`"]) assert.deepEqual(spans(text), [{ kind: "text", text }], text);
  assert.deepEqual(spans("`:tada:` :tada:"), [{ kind: "code", text: ":tada:" }, { kind: "text", text: " 🎉" }]);
});

test("a fence makes a block, with or without a language, and needs its end", () => {
  const code = (text: string, language = "") => ({ kind: "code", text, language });
  assert.deepEqual(parse("```rust\nfn main() {}\n```"), [code("fn main() {}", "rust")]);
  assert.deepEqual(parse("```\na\n\nb\n```"), [code("a\n\nb")]);
  assert.deepEqual(parse("```one line```"), [code("one line")]);
  assert.deepEqual(parse("```\n```"), [code("")]);
  assert.deepEqual(parse("before\n```\na\n```\nafter").map(({ kind }) => kind), ["text", "code", "text"]);
  assert.equal(seen(parse("before\n```\na\n```\nafter")), "before\naafter");
  assert.deepEqual(parse("```\nnever closed"), [{ kind: "text", spans: [{ kind: "text", text: "```\nnever closed" }] }]);
  assert.deepEqual(links("```\nhttps://example.org\n```"), []);
});

test("shortcodes become emoji where they stand alone", () => {
  assert.equal(seen(parse(":tada: :rocket::+1:")), "🎉 🚀:+1:");
  for (const text of ["10:30:45", "a:tada:", ":nothing:", "::tada", "std::vector::new", "http://a.example:80:tada:"]) assert.equal(seen(parse(text)), text, text);
});

test("no text of 64 KiB takes more than linear time", () => {
  const LENGTH = 65_536;
  const seeds = [
    "`", "``", "` ``", "`a", "``a`", "```", "```\n", "```a\n", "\n```", "``` `\n", "`\n", ":", ":a", ":tada", ":tada:", "::", "h", "m", "http", "http://",
    "https://a ", "https://a(", "https://a)", "http://a.", "(", "https://[", "mailto:", "mailto:a@b ", "https://a@", "\n", "\n\n", " ", "a", "\u202e", "😀", "é", "<a href=",
  ];
  // The same work on an eighth of the text says what linear is on this machine, now.
  for (const seed of seeds) {
    const time = (length: number) => {
      const text = seed.repeat(Math.ceil(length / seed.length)).slice(0, length);
      let best = Number.POSITIVE_INFINITY;
      for (let i = 0; i < 3; i++) {
        const begin = performance.now();
        parse(text);
        best = Math.min(best, performance.now() - begin);
      }
      return best;
    };
    const [short, long] = [time(LENGTH / 8), time(LENGTH)];
    assert.ok(long < 12 || long < short * 24, `${JSON.stringify(seed)}: ${short.toFixed(2)} ms → ${long.toFixed(2)} ms`);
  }
  // One word that is one address, and its punctuation.
  for (const text of [`https://a/${"a".repeat(LENGTH)}`, `https://a/${").".repeat(LENGTH / 2)}`, `https://a/${"(".repeat(LENGTH)}`]) {
    const begin = performance.now();
    parse(text);
    assert.ok(performance.now() - begin < 100);
  }
});

test("no message has more spans than a page can draw", () => {
  const blocks = parse("https://a.example `b` ".repeat(3_000));
  const count = blocks.reduce((sum, block) => sum + (block.kind === "text" ? block.spans.length : 1), 0);
  assert.ok(count <= 1_001, `${count}`);
  assert.ok(parse("```\na\n```\n".repeat(6_000)).length <= 1_001);
});

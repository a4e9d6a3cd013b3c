import assert from "node:assert/strict";
import { test } from "node:test";
import type { Entry } from "@hubbub/client";
import { Heights } from "../src/timeline/heights.ts";
import { ChannelLog } from "../src/timeline/log.ts";
import { cutAt } from "../src/timeline/row.ts";
import { keyOf, type Row, Rows } from "../src/timeline/rows.ts";

const ME = 7;
const MINUTE = 60_000;
const NOON = new Date(2026, 2, 3, 12).getTime();

function message(sequence: number, at = NOON + sequence * MINUTE, userId = 1): Entry {
  return { kind: "message", sequence, at, userId, body: `message ${sequence}` };
}

function drawn(rows: Rows): string[] {
  return rows.list.map((row: Row) => {
    if (row.kind === "message" || row.kind === "outgoing") return `${keyOf(row)}${row.isGrouped ? "+" : ""}`;
    return row.kind === "gap" ? `gap ${row.sequence}-${row.to}` : row.kind;
  });
}

function rowsOf(log: ChannelLog, unreadFrom?: number): Rows {
  const rows = new Rows();
  rows.unreadFrom = unreadFrom;
  rows.update(log, ME);
  return rows;
}

test("one author's messages within five minutes share a header", () => {
  const log = new ChannelLog(ME);
  log.add([message(1), message(2), message(3, NOON + 8 * MINUTE), message(4, NOON + 9 * MINUTE, 2), message(5, NOON + 9 * MINUTE, 2)]);
  assert.deepEqual(drawn(rowsOf(log)), ["top", "day", "m:1", "m:2+", "m:3", "m:4", "m:5+"]);
});

test("a day line, a gap, the unread line and a change of the channel each end a group", () => {
  const log = new ChannelLog(ME);
  const midnight = new Date(2026, 2, 4).getTime();
  log.add([message(1, midnight - 1), message(2, midnight), message(3, midnight), message(4, midnight)]);
  log.add([message(6, midnight), { kind: "membership", sequence: 7, at: midnight, userId: 1, memberId: 2 }, message(8, midnight)]);
  log.reach(10);
  assert.deepEqual(drawn(rowsOf(log, 4)), [
    "top", "day", "m:1", "day", "m:2", "m:3+", "unread", "m:4", "gap 5-5", "m:6", "change", "m:8", "gap 9-10",
  ]);
});

test("the unread line is not drawn where nobody knows what is before it", () => {
  const log = new ChannelLog(ME);
  log.add([message(50), message(51)]);
  assert.ok(!drawn(rowsOf(log, 20)).includes("unread"));
  assert.deepEqual(drawn(rowsOf(log, 50)), ["top", "day", "unread", "m:50", "m:51+"]);
  assert.ok(!drawn(rowsOf(log, 52)).includes("unread"));
});

test("what is drawn step by step is what is drawn at once", () => {
  let state = 5;
  const below = (n: number) => (state = (state * 48_271) % 2_147_483_647) % n;
  for (let round = 0; round < 60; round++) {
    const log = new ChannelLog(ME);
    const rows = new Rows();
    let newest = 20;
    for (let step = 0; step < 40; step++) {
      const what = below(12);
      const write = (sequence: number) => message(sequence, NOON + sequence * 7 * MINUTE * (1 + (sequence % 40)), 1 + (Math.floor(sequence / 3) % 2) * (ME - 1));
      if (what < 5) log.add([write(++newest)]);
      else if (what === 5) log.publish(`k${step}`, "mine", NOON + newest * 7 * MINUTE);
      else if (what === 6) log.fail(`k${step - 1}`, "why");
      else if (what === 7) log.acknowledge(`k${step - 2}`, ++newest);
      else if (what === 8) log.reach((newest += below(4)));
      else if (what === 9) rows.unreadFrom = below(newest);
      else if (what === 10 && below(4) === 0) log.forgetBefore(below(newest));
      else if (what === 11) {
        const next = log.newest + 1;
        log.add([write(next), write(next + 1)]);
        newest = Math.max(newest, next + 1);
      } else log.add(Array.from({ length: 5 }, (_, i) => write(1 + i + (step % 10))));
      const before = rows.list.slice();
      const kept = rows.update(log, ME);
      for (let i = 0; i < kept; i++) assert.equal(rows.list[i], before[i]);
      const fresh = rowsOf(log, rows.unreadFrom);
      assert.deepEqual(drawn(rows), drawn(fresh), `round ${round} step ${step}`);
      assert.deepEqual(rows.days, fresh.days, `round ${round} step ${step}`);
      for (const [i, row] of rows.list.entries()) assert.ok(i === 0 || row.sequence >= rows.list[i - 1]!.sequence);
    }
  }
});

test("a message at the end of 50,000 makes only its own rows", () => {
  const log = new ChannelLog(ME);
  log.add(Array.from({ length: 50_000 }, (_, i) => message(i + 1)));
  const rows = rowsOf(log);
  log.publish("k", "mine", NOON);
  const before = rows.list.length;
  assert.equal(rows.update(log, ME), before);
  log.add([message(50_001)]);
  assert.equal(rows.update(log, ME), before);
});

test("an entry is found by its sequence, and a day by its row", () => {
  const log = new ChannelLog(ME);
  log.add([message(1, NOON), message(2, NOON + 26 * 60 * MINUTE), message(9, NOON + 27 * 60 * MINUTE)]);
  const rows = rowsOf(log);
  assert.deepEqual(drawn(rows), ["top", "day", "m:1", "day", "m:2", "gap 3-8", "m:9"]);
  assert.deepEqual([1, 2, 3, 9, 10].map((sequence) => rows.indexOfEntry(sequence)), [2, 4, -1, 6, -1]);
  assert.deepEqual([0, 1, 2, 3, 6].map((index) => rows.dayAt(index)), [-1, 0, 0, 1, 1]);
});

test("heights sum up as a naive list does, through growing, cutting and changing", () => {
  let state = 11;
  const below = (n: number) => (state = (state * 48_271) % 2_147_483_647) % n;
  const heights = new Heights();
  const naive: number[] = [];
  for (let step = 0; step < 6_000; step++) {
    const what = below(20);
    if (what === 0 && below(30) === 0) {
      const count = below(naive.length + 1);
      heights.truncate(count);
      naive.length = count;
    } else if (what < 14 || naive.length === 0) {
      const height = below(200);
      heights.push(height);
      naive.push(height);
    } else {
      const index = below(naive.length);
      naive[index] = below(200);
      heights.set(index, naive[index]!);
    }
    if (step % 7 !== 0) continue;
    const index = below(naive.length + 1);
    const sum = naive.slice(0, index).reduce((a, b) => a + b, 0);
    assert.equal(heights.before(index), sum);
    const y = below(1 + naive.reduce((a, b) => a + b, 0));
    let row = 0;
    for (let top = 0; row < naive.length - 1 && top + naive[row]! <= y; row++) top += naive[row]!;
    assert.equal(heights.find(y), naive.length === 0 ? 0 : row);
  }
  assert.ok(naive.length > 1_024);
});

test("a long message is cut after lines or characters, never within one, and more of it comes in steps", () => {
  assert.equal(cutAt("short", 0), 5);
  assert.equal(cutAt("a\n".repeat(24).trim(), 0), 47);
  assert.equal(cutAt("a\n".repeat(25), 0), 27);
  assert.equal(cutAt("x".repeat(65_536), 0), 1_000);
  assert.equal(cutAt(`x${"😀".repeat(2_000)}`, 0), 999);
  for (const text of ["x".repeat(65_536), "a\n".repeat(32_768), "😀".repeat(16_384)]) {
    let steps = 0;
    for (let cut = 0; cut < text.length; steps++) {
      const next = cutAt(text, steps);
      assert.ok(next > cut && next - cut <= 16_384);
      cut = next;
    }
    assert.ok(steps > 1 && steps < 60);
  }
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { HUES, hueOf } from "../src/hue.ts";
import { dayName, dayStart } from "../src/time.ts";

const HOUR = 3_600_000;

test("a day begins at local midnight, also when it has 23 or 25 hours", () => {
  // Two years of hours have every change of the clocks of this zone in them.
  const begin = new Date(2026, 0, 1).getTime();
  for (let at = begin; at < begin + 730 * 24 * HOUR; at += HOUR) {
    const date = new Date(at);
    assert.equal(dayStart(at), new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime());
  }
});

test("today and yesterday have names, other days a date, other years a year", () => {
  const now = new Date(2026, 2, 3, 0, 5).getTime();
  assert.equal(dayName(new Date(2026, 2, 3, 23).getTime(), now), "Today");
  assert.equal(dayName(new Date(2026, 2, 2, 0, 1).getTime(), now), "Yesterday");
  assert.notEqual(dayName(new Date(2026, 2, 1, 23, 59).getTime(), now), "Yesterday");
  assert.ok(!dayName(new Date(2026, 0, 5).getTime(), now).includes("2026"));
  assert.ok(dayName(new Date(2025, 0, 5).getTime(), now).includes("2025"));
});

test("users who follow one another have distant hues, and all hues are used", () => {
  const used = new Map<number, number>();
  for (let id = 1; id <= 1_200; id++) {
    const hue = hueOf(id);
    assert.ok(Number.isInteger(hue) && hue >= 0 && hue < HUES);
    const apart = Math.abs(hue - hueOf(id + 1));
    assert.ok(Math.min(apart, HUES - apart) >= 2, `${id}`);
    used.set(hue, (used.get(hue) ?? 0) + 1);
  }
  assert.equal(used.size, HUES);
  assert.ok([...used.values()].every((count) => count > 60));
  assert.ok(hueOf(4_294_967_295) < HUES);
});

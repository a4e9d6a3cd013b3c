// Dates and times as people read them, in the reader's language and zone.

const time = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const thisYear = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const otherYear = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });

/** "14:05" */
export function timeOfDay(at: number): string {
  return time.format(at);
}

/** "Tuesday, 3 March 2026 at 14:05:09", for a tooltip. */
export function fullTime(at: number): string {
  return full.format(at);
}

/** "Today", "Yesterday", "Tuesday, 3 March", and with the year when it is another one. */
export function dayName(at: number, now: number): string {
  const day = dayStart(at);
  if (day === dayStart(now)) return "Today";
  // Noon of the day before, so that a day of 23 or 25 hours does not matter.
  if (day === dayStart(dayStart(now) - 12 * 3_600_000)) return "Yesterday";
  const sameYear = new Date(at).getFullYear() === new Date(now).getFullYear();
  return (sameYear ? thisYear : otherYear).format(at);
}

let known = { start: 0, end: 0 };

/** The local midnight that begins the day of `at`. Calls for moments of one day cost no `Date`. */
export function dayStart(at: number): number {
  if (at < known.start || at >= known.end) {
    const date = new Date(at);
    const [year, month, day] = [date.getFullYear(), date.getMonth(), date.getDate()];
    known = { start: new Date(year, month, day).getTime(), end: new Date(year, month, day + 1).getTime() };
  }
  return known.start;
}

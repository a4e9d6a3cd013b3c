// The colour of a user: one of the twelve hues `--hue-0` … `--hue-11` of the theme.

export const HUES = 12;

/** The same user has the same hue everywhere; neighbouring ids get distant hues. */
export function hueOf(userId: number): number {
  return (userId * 5 + Math.floor(userId / HUES) * 7) % HUES;
}

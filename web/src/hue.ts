// The colour of a user: one of the twelve hues `--hue-0` … `--hue-11` of the theme.

export const HUES = 12;

/** The same user has the same hue everywhere; users who signed up after one another get distant ones. */
export function hueOf(userId: number): number {
  return (userId * 5) % HUES;
}

/** Every bound of this client, and what happens beyond it. */

/** Commands under way or waiting for a connection. Beyond it: `busy`. */
export const COMMANDS_MAX = 256
/** Their frames together. Beyond it: `busy`. */
export const COMMAND_BYTES_MAX = 4 * 1024 * 1024
/** Subscriptions of one client. Beyond it: `too_many`. */
export const SUBSCRIPTIONS_MAX = 4_096
/** Channel objects that are found again by name. Beyond it: those without a subscription are forgotten. */
export const CHANNELS_MAX = 4_096
/** User names that are remembered. Beyond it: all are forgotten. */
export const USERS_MAX = 4_096
/** User ids in one command; the server takes no more. */
export const USERS_PER_COMMAND = 200
/** User ids that wait to be asked for. Beyond it: `busy`. */
export const USERS_WAITING_MAX = 20_000
/** How long a command may take when nobody says, and a connection until its welcome, and `getToken`. */
export const TIMEOUT_MS = 15_000
/** A frame without a reply for this many times the timeout ends the connection: the reply is lost. */
export const REPLY_TIMEOUTS_MAX = 2
/** The back-off before the first retry, before jitter; it doubles with each. */
export const BACKOFF_MIN_MS = 500
/** The largest back-off. A connection that held this long starts the back-off anew. */
export const BACKOFF_MAX_MS = 20_000
/** The longest wait that a server may ask for. What is more counts as this. */
export const RETRY_AFTER_MS_MAX = 10 * 60_000
/** Between two frames that say that the user is writing in a channel. What comes earlier is not sent. */
export const TYPING_INTERVAL_MS = 3_000
/** Renewals that come sooner than this one after another wait twice as long each time, up to this. */
export const RENEWAL_SPACING_MS_MAX = 60_000
/** Timers take no more than 2^31 - 1 ms; a renewal further away is done earlier. */
export const TIMER_MS_MAX = 2_000_000_000

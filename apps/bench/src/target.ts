/** A number that is required, what was read, and whether that meets it. */

export const BOUNDS = ["at least", "at most"] as const;
export const UNITS = ["share", "times", "ms", "µs", "bytes", "TFLOP/s", "error"] as const;
export const LACKS = ["wrong", "failed", "skipped", "peer"] as const;
export type Unit = (typeof UNITS)[number];

export interface Value {
  readonly case: string;
  readonly value: number;
}

/** What one case gave, or why it gave nothing. */
export type Reading =
  | Value
  | {
      readonly case: string;
      /** How our own entry ended; "peer" when it is the other one that has no number. */
      readonly because: (typeof LACKS)[number];
      readonly reason: string;
    };

export interface TargetOutcome {
  readonly id: string;
  readonly title: string;
  readonly bound: (typeof BOUNDS)[number];
  readonly required: number;
  readonly unit: Unit;
  /** How it was measured. */
  readonly how: string;
  readonly readings: readonly Reading[];
  /** Follows from the readings: see `stateOf`. */
  readonly state: "met" | "missed" | "unmeasured";
}

type Judged = Omit<TargetOutcome, "state">;

export function judged(target: Judged): TargetOutcome {
  return { ...target, state: stateOf(target) };
}

/**
 * Missed when a reading is, or when ours gave a wrong answer or none; unmeasured when something of ours was skipped or
 * nothing was read; met otherwise. A peer that fails has lost its case: it neither meets nor misses a target.
 */
export function stateOf({
  bound,
  required,
  readings,
}: Omit<Judged, "id" | "title" | "how" | "unit">): TargetOutcome["state"] {
  const meets = (value: number): boolean => (bound === "at least" ? value >= required : value <= required);
  const misses = (one: Reading): boolean =>
    "value" in one ? !meets(one.value) : one.because === "wrong" || one.because === "failed";
  if (readings.some(misses)) return "missed";
  const skipped = readings.some((one) => "because" in one && one.because === "skipped");
  return skipped || !readings.some((one) => "value" in one) ? "unmeasured" : "met";
}

/** The reading that decides: the farthest on the wrong side; undefined when nothing was read. */
export function worstOf({ bound, readings }: Pick<Judged, "bound" | "readings">): Value | undefined {
  const values = readings.filter((one) => "value" in one).toSorted((a, b) => a.value - b.value);
  return bound === "at least" ? values[0] : values.at(-1);
}

/** "85.1 %", "2.31 times", "12.3 ms", "41.2 MB", "231.4 TFLOP/s", "1.2e-6". */
export function amount(value: number, unit: Unit): string {
  switch (unit) {
    case "share":
      return `${(100 * value).toFixed(1)} %`;
    case "times":
      return `${value.toFixed(2)} times`;
    case "ms":
    case "µs":
    case "TFLOP/s":
      return `${value.toFixed(1)} ${unit}`;
    case "error":
      return value.toExponential(1);
    case "bytes":
      return value < 1e6 ? `${(value / 1e3).toFixed(1)} kB` : `${(value / 1e6).toFixed(1)} MB`;
  }
}

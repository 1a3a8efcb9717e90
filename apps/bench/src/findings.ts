/** What was measured, looked up by name, and the rules that say what is required of it. */
import type { AttentionCase } from "./cases.ts";
import type { GaugeName, MatchResult } from "./contest.ts";
import { quantile } from "./numbers.ts";
import { gflopsOf, type Entry, type MeasuredEntry } from "./results.ts";
import { judged, type Reading, type TargetOutcome } from "./target.ts";

/** Why a reading has no value. */
export class Lack extends Error {
  readonly because: Extract<Reading, { because: string }>["because"];
  constructor(because: Lack["because"], reason: string) {
    super(reason);
    this.because = because;
  }
}

export function lackOf(entry: Exclude<Entry, MeasuredEntry>): Lack {
  const reason = entry.outcome === "wrong" ? `errs in ${entry.verification.worst}` : entry.reason;
  const isOurs = entry.contestant.startsWith("ours");
  return new Lack(isOurs ? entry.outcome : "peer", isOurs ? reason : `${entry.contestant} ${entry.outcome}: ${reason}`);
}

/** A case, or whatever else a match is named after. */
interface Named {
  readonly facts: { readonly id: string };
}

/** @throws Lack from every method, when it was not measured */
export class Findings {
  readonly #results: readonly MatchResult[];

  constructor(results: readonly MatchResult[]) {
    this.#results = results;
  }

  /** The time of a case in the match named after `match`, which is the case itself unless given. */
  ms(contestant: string, item: AttentionCase, match: Named = item): number {
    return this.measured(contestant, item, match).timing.medianMs;
  }

  gflops(contestant: string, item: AttentionCase): number {
    return gflopsOf(this.measured(contestant, item, item));
  }

  /** The best of all samples of the run. */
  roof(name: GaugeName): number {
    const rates = this.#results.flatMap(({ gauges }) => gauges[name] ?? []);
    if (rates.length === 0) throw new Lack("skipped", `the roof ${name} was not measured`);
    return Math.max(...rates);
  }

  /** The median rate beside a case. */
  rate(name: GaugeName, item: AttentionCase): number {
    const rates = this.#match(item)?.gauges[name];
    if (!rates?.length) throw new Lack("skipped", `${name} was not measured`);
    return median(rates);
  }

  measured(contestant: string, item: AttentionCase, match: Named): MeasuredEntry {
    const found = this.#match(match)?.entries.find(
      (entry) => entry.contestant === contestant && entry.id === item.facts.id,
    );
    if (!found) throw new Lack("skipped", "the run was stopped before it");
    if (found.outcome !== "measured") throw lackOf(found);
    return found;
  }

  #match({ facts: { id } }: Named): MatchResult | undefined {
    return this.#results.find(({ match }) => match.id === id);
  }
}

export interface Rule<Found extends Findings> {
  readonly id: string;
  readonly title: string;
  readonly required: number;
  /** "at least" unless given. */
  readonly bound?: TargetOutcome["bound"];
  /** "share" unless given. */
  readonly unit?: TargetOutcome["unit"];
  readonly how: string;
  readonly readings: Readonly<Record<string, (found: Found) => number>>;
}

/** Every rule with what was read for it. */
export function judgedBy<Found extends Findings>(rules: readonly Rule<Found>[], found: Found): TargetOutcome[] {
  return rules.map(({ readings, bound = "at least", unit = "share", ...rule }) =>
    judged({
      ...rule,
      bound,
      unit,
      readings: Object.entries(readings).map(([name, value]): Reading => {
        try {
          return { case: name, value: value(found) };
        } catch (error) {
          if (!(error instanceof Lack)) throw error;
          return { case: name, because: error.because, reason: error.message };
        }
      }),
    }),
  );
}

/** One reading a case, called by its title. */
export function byTitle<Found extends Findings>(
  cases: readonly AttentionCase[],
  value: (found: Found, item: AttentionCase) => number,
): Rule<Found>["readings"] {
  return Object.fromEntries(cases.map((item) => [item.facts.title, (found: Found) => value(found, item)]));
}

export function median(values: readonly number[]): number {
  return quantile(
    values.toSorted((a, b) => a - b),
    0.5,
  );
}

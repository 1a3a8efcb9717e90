import { expect, test } from "vitest";
import { bytes, cells, spread } from "../src/columns.ts";
import { isMeasured, type Outcome } from "../src/results.ts";
import { resultsTable, targetsTable } from "../src/table.ts";
import { madeContest, madeResults } from "./made.ts";

const { outcomes, roof } = madeResults();
const measured = outcomes.find(isMeasured)!;

test("a table fits a terminal of 100 columns, whatever became of the cases", () => {
  const { timing: _timing, peakBytes: _peak, verification, ...facts } = measured;
  const all: Outcome[] = [
    ...outcomes,
    {
      ...facts,
      group: "module",
      title: "[8, 512, 512] 8 heads, fwd+bwd",
      outcome: "wrong",
      verification: { ...verification, ok: false },
    },
    { ...facts, outcome: "failed", reason: "a long reason of many words ".repeat(12) },
    { ...facts, outcome: "skipped", reason: "needs 33 s, over a quarter of --budget 40" },
    { ...measured, timing: { ...measured.timing, medianMs: 12345.6, lowMs: 10000, highMs: 19999 }, peakBytes: 2 ** 39 },
  ];
  const lines = resultsTable({ outcomes: all, roof }).split("\n");
  for (const line of lines) expect(line.length, line).toBeLessThanOrEqual(100);
  expect(lines.some((line) => /WRONG: out errs/.test(line))).toBe(true);
});

test("a measured case shows its time, rate, share of the roof, memory, scores and error", () => {
  const { flops, scoresBytes } = measured;
  expect(scoresBytes).toBe(8 * 128 * 128 * 4);
  expect(flops).toBe(8 * 128 * 128 * 256);
  const timing = { ...measured.timing, medianMs: 2, lowMs: 1.9, highMs: 2.1 };
  expect(cells({ ...measured, timing }, roof)).toEqual([
    "S 128, full",
    "2.00 ± 0.10",
    "2.10",
    "16.8",
    "26 %",
    "3.0 MiB",
    "512 KiB",
    "2.0e-7",
  ]);
});

test("what the columns mean stands below: how flop are counted, and what the roof is", () => {
  const table = resultsTable({ outcomes, roof });
  expect(table).toMatch(/GFLOP\/s +counts visible pairs only/);
  expect(table).toMatch(/of roof +64\.0 GFLOP\/s, measured in this run: made for a test/);
});

test("only lines of wrong and failed cases are alarming", () => {
  const { timing: _timing, peakBytes: _peak, verification, ...facts } = measured;
  const alarm = (text: string): string => `!${text}!`;
  const wrong: Outcome = {
    ...facts,
    outcome: "wrong",
    verification: { ...verification, ok: false, maxError: NaN, ofTolerance: NaN },
  };
  expect(resultsTable({ outcomes: [measured, wrong], roof }, { alarm })).toMatch(/!WRONG: out holds NaN/);
  expect(resultsTable({ outcomes: [measured], roof }, { alarm })).not.toContain("!");
});

test("times keep one digit for the spread to stand on, bytes have binary units", () => {
  const timing = { firstMs: 1, samples: 9, callsPerSample: 1, timer: "wall" } as const;
  expect(spread({ ...timing, medianMs: 0.1234, lowMs: 0.12, highMs: 0.126 })).toBe("0.123 ± 0.003");
  expect(spread({ ...timing, medianMs: 9.99, lowMs: 9, highMs: 11 })).toBe("9.99 ± 1.00");
  expect(spread({ ...timing, medianMs: 321.44, lowMs: 300, highMs: 301 })).toBe("321.4 ± 0.5");
  expect(spread({ ...timing, medianMs: 4321.4, lowMs: 4300, highMs: 4350 })).toBe("4321 ± 25");
  expect([0, 1023, 1024, 1536, 2 ** 20 * 60.5, 2 ** 30 * 512, 2 ** 50].map(bytes)).toEqual([
    "0 B",
    "1023 B",
    "1.0 KiB",
    "1.5 KiB",
    "60.5 MiB",
    "512 GiB",
    "1024 TiB",
  ]);
});

test("targets come with every reading, the verdict first, and a count", () => {
  const lines = targetsTable(madeContest().targets, { alarm: (text) => `!${text}` }).split("\n");
  expect(lines).toEqual([
    "!missed      a made target: 70.0 %, required at least 80.0 %",
    "            one    90.0 %",
    "            other  70.0 %",
    "            made for a test",
    "",
    "targets: 0 met, 1 missed, 0 not measured",
  ]);
});

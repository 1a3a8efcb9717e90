import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { FaError } from "@fa/core";
import type { Timing } from "../src/measure.ts";
import {
  formatResults,
  gflopsOf,
  isMeasured,
  parseResults,
  VERSION,
  type ResultsFile,
  type RunFile,
} from "../src/results.ts";
import { madeContest, madeGpuContest, madeResults } from "./made.ts";

const read = (text: string): ResultsFile => parseResults(text, "some.json");

function refused(text: string): string {
  try {
    read(text);
  } catch (error) {
    expect(error).toBeInstanceOf(FaError);
    return (error as Error).message;
  }
  throw new Error("it was accepted");
}

/** Made results with one place changed. */
function changed(path: string, value: unknown, made: ResultsFile = madeResults()): string {
  const file = JSON.parse(formatResults(made)) as Record<string, unknown>;
  const steps = path.split(".");
  const last = steps.pop()!;
  const place = steps.reduce((at, step) => at[step] as Record<string, unknown>, file);
  place[last] = value;
  return JSON.stringify(file);
}

test("what is written is read again", () => {
  const file = madeResults();
  expect(read(formatResults(file))).toEqual(file);
  expect(read(formatResults(madeContest()))).toEqual(madeContest());
  expect(read(formatResults(madeGpuContest()))).toEqual(madeGpuContest());
});

test("a contest of version 2 is one of the wasm back end", () => {
  const { contestOf: _contestOf, ...older } = madeContest();
  expect(read(JSON.stringify({ ...older, version: 2 }))).toEqual(madeContest());
});

test("what a run of version 3 lacks follows from what it has", () => {
  const file = JSON.parse(formatResults(madeResults())) as { outcomes: Record<string, unknown>[]; bandwidth: unknown };
  const older = file.outcomes.map(({ Dv: _Dv, bytes: _bytes, timing, ...outcome }) => {
    const { timer: _timer, warmUpCalls: _calls, inputSets: _sets, ...times } = timing as Timing;
    return { ...outcome, timing: times };
  });
  const { bandwidth: _bandwidth, ...rest } = file;
  const again = read(JSON.stringify({ ...rest, version: 3, outcomes: older })) as RunFile;
  const [first] = madeResults().outcomes;
  expect(again).toMatchObject({ version: VERSION, bandwidth: null });
  expect(again.outcomes[0]).toMatchObject({ Dv: first.Dv, bytes: first.bytes, timing: { timer: "wall" } });
  const [failed] = older;
  expect(read(JSON.stringify({ ...rest, version: 3, outcomes: [failed] }))).toHaveProperty("outcomes.length", 1);
});

test("wrong, failed and skipped cases are read again; the NaN of a wrong one too", () => {
  const [first, second, third] = madeResults().outcomes;
  if (!first || !isMeasured(first) || !second || !third) throw new Error("made otherwise");
  const { timing: _timing, peakBytes: _peak, verification, ...facts } = first;
  const file = madeResults({
    complete: false,
    commit: null,
    outcomes: [
      { ...facts, outcome: "wrong", verification: { ...verification, ok: false, maxError: NaN, ofTolerance: NaN } },
      { ...facts, outcome: "skipped", reason: "would take too long" },
      { ...facts, outcome: "failed", reason: "out of memory" },
    ],
  });
  const again = read(formatResults(file));
  expect(again).toEqual(file);
  expect(again).toHaveProperty("outcomes.0.verification.maxError", NaN);
});

describe("refuses, and says where", () => {
  test("a file cut short", () => {
    expect(refused(formatResults(madeResults()).slice(0, 300))).toMatch(/^some\.json: .*whole JSON file.*run again/);
    expect(refused("")).toMatch(/whole JSON file/);
  });

  test("another version, older or newer", () => {
    const [newer, must] = [VERSION + 1, `must have version ${VERSION}`];
    expect(refused(changed("version", newer))).toContain(`${must}; got ${newer}. Read it with the version of the app`);
    expect(refused(changed("version", 1))).toContain(`${must}; got 1. It is an older one: run again`);
    expect(refused(changed("version", undefined))).toContain(`${must}; got undefined`);
  });

  test("a file of something else", () => {
    expect(refused("null")).toMatch(/must have schema "fa-bench"/);
    expect(refused(`{"name": "package"}`)).toMatch(/Is it a file that --json wrote/);
  });

  test.each([
    ["machine.cores", "two", /a whole number at machine\.cores; got "two"/],
    ["date", "yesterday", /a date at date; got "yesterday"/],
    ["roof.gflops", 0, /a number above 0 at roof\.gflops; got 0/],
    ["outcomes", {}, /a list at outcomes; got \{\}/],
    ["outcomes.1", null, /one of measured, .* at outcomes\[1\]\.outcome; got nothing/],
    ["outcomes.1.outcome", "guessed", /one of measured, .*; got "guessed"/],
    ["outcomes.1.dtype", "bool", /at outcomes\[1\]\.dtype; got "bool"/],
    ["outcomes.2.timing.medianMs", null, /a number above 0 at outcomes\[2\]\.timing\.medianMs; got null/],
    ["outcomes.2.timing", undefined, /an object at outcomes\[2\]\.timing; got nothing/],
    ["outcomes.2.timing.timer", "sundial", /one of wall, chains, gpu at outcomes\[2\]\.timing\.timer; got "sundial"/],
    ["outcomes.2.timing.medianMs", 1e9, /a number from [\d.]+ to [\d.]+, the quartiles, at .*medianMs; got 1000000000/],
    [
      "outcomes.1.verification.against",
      "",
      /what it was compared with at outcomes\[1\]\.verification\.against; got ""/,
    ],
    ["outcomes.1.bytes", "many", /a number at outcomes\[1\]\.bytes; got "many"/],
    ["bandwidth", 7, /an object at bandwidth; got 7/],
    ["candidates.0.reason", 7, /a text at candidates\[0\]\.reason; got 7/],
  ])("%s = %j", (path, value, message) => {
    expect(refused(changed(path, value))).toMatch(message);
  });

  test.each([
    ["kind", "guess", /one of run, contest at kind; got "guess"/],
    ["entries.0.contestant", undefined, /a text at entries\[0\]\.contestant; got nothing/],
    ["entries.0.verification.ok", false, /one of true at entries\[0\]\.verification\.ok/],
    ["entries.0.peakBytes", "much", /a whole number at entries\[0\]\.peakBytes/],
    ["contestants.0.takesPart", 1, /true or false at contestants\[0\]\.takesPart/],
    ["targets.0.unit", "furlongs", /one of share, .* at targets\[0\]\.unit/],
    ["targets.0.readings.0.value", null, /a number at targets\[0\]\.readings\[0\]\.value; got null/],
    ["targets.0.readings.0", { case: "x", because: "mood", reason: "" }, /one of wrong, .*readings\[0\]\.because/],
    // A claim that its own readings contradict.
    ["targets.0.state", "met", /one of missed at targets\[0\]\.state; got "met"/],
  ])("of a contest: %s = %j", (path, value, message) => {
    expect(refused(changed(path, value, madeContest()))).toMatch(message);
  });

  test("times without a verification that passed", () => {
    expect(refused(changed("outcomes.0.verification.ok", false))).toMatch(/true at outcomes\[0\]\.verification\.ok/);
    expect(refused(changed("outcomes.0.verification", undefined))).toMatch(/outcomes\[0\]\.verification/);
    expect(refused(changed("outcomes.0.verification.ofTolerance", 1.5))).toMatch(
      /at most 1 at .*ofTolerance; got 1\.5/,
    );
    expect(refused(changed("outcomes.0.verification.maxError", null))).toMatch(/verification\.maxError; got null/);
  });
});

test("GFLOP/s are operations by the median time", () => {
  const [first] = madeResults().outcomes.filter(isMeasured);
  expect(gflopsOf(first)).toBeCloseTo(32, 9);
});

const COMMITTED = join(import.meta.dirname, "../results");

test.each(globSync("*.json", { cwd: COMMITTED }))("%s, as committed, is whole and without a wrong case", (name) => {
  const file = read(readFileSync(join(COMMITTED, name), "utf8"));
  expect(file.complete).toBe(true);
  expect(file.commit).toMatch(/^[0-9a-f]{12}$/);
  const own = file.kind === "run" ? file.outcomes : file.entries.filter((e) => e.contestant.startsWith("ours"));
  expect(own.length).toBeGreaterThan(0);
  expect(own.filter(({ outcome }) => outcome === "wrong" || outcome === "failed")).toEqual([]);
});

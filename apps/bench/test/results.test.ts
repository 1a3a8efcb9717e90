import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { FaError } from "@fa/core";
import { formatResults, gflopsOf, isMeasured, parseResults, type ResultsFile } from "../src/results.ts";
import { madeResults } from "./made.ts";

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

/** The made results with one place changed. */
function changed(path: string, value: unknown): string {
  const file = JSON.parse(formatResults(madeResults())) as Record<string, unknown>;
  const steps = path.split(".");
  const last = steps.pop()!;
  const place = steps.reduce((at, step) => at[step] as Record<string, unknown>, file);
  place[last] = value;
  return JSON.stringify(file);
}

test("what is written is read again", () => {
  const file = madeResults();
  expect(read(formatResults(file))).toEqual(file);
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
  expect(again.outcomes[0]).toMatchObject({ verification: { ok: false, maxError: NaN } });
});

describe("refuses, and says where", () => {
  test("a file cut short", () => {
    expect(refused(formatResults(madeResults()).slice(0, 300))).toMatch(/^some\.json: .*whole JSON file.*run again/);
    expect(refused("")).toMatch(/whole JSON file/);
  });

  test("another version, older or newer", () => {
    expect(refused(changed("version", 2))).toMatch(/must have version 1; got 2\. .*the version that wrote it/);
    expect(refused(changed("version", undefined))).toMatch(/must have version 1; got undefined/);
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
    ["candidates.0.reason", 7, /a text at candidates\[0\]\.reason; got 7/],
  ])("%s = %j", (path, value, message) => {
    expect(refused(changed(path, value))).toMatch(message);
  });

  test("times without a verification that passed", () => {
    expect(refused(changed("outcomes.0.verification.ok", false))).toMatch(/true at outcomes\[0\]\.verification\.ok/);
    expect(refused(changed("outcomes.0.verification", undefined))).toMatch(/outcomes\[0\]\.verification/);
    expect(refused(changed("outcomes.0.verification.maxError", null))).toMatch(/verification\.maxError; got null/);
  });
});

test("GFLOP/s are operations by the median time", () => {
  const [first] = madeResults().outcomes.filter(isMeasured);
  expect(gflopsOf(first)).toBeCloseTo(32, 9);
});

const COMMITTED = join(import.meta.dirname, "../results");

test.each(globSync("*.json", { cwd: COMMITTED }))("%s, as committed, is whole and without a wrong case", (name) => {
  const { complete, commit, outcomes } = read(readFileSync(join(COMMITTED, name), "utf8"));
  expect(complete).toBe(true);
  expect(commit).toMatch(/^[0-9a-f]{12}$/);
  expect(outcomes.filter(({ outcome }) => outcome === "wrong" || outcome === "failed")).toEqual([]);
});

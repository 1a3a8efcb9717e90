import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  BACKWARD_PARAMS,
  DTYPE_CODES,
  FORWARD_PARAMS,
  LINEAR_PARAMS,
  PART,
  SCORE_PARAMS,
  sizeOf,
  writeFields,
  type Fields,
} from "../src/abi.ts";

const header = (name: string): string => readFileSync(new URL(`../c/${name}`, import.meta.url), "utf8");

/** The fields of a struct of c/params.h, in order; an embedded ScoreParams gives its own. */
function fieldsOf(name: string): [string, string][] {
  const text = header("params.h").replaceAll(/\/\/.*$/gm, "");
  const struct = text
    .split("typedef struct {")
    .map((part) => part.split("}"))
    .find(([, after]) => after?.trim().startsWith(`${name};`));
  const declarations = struct![0].split(";").map((line) => line.trim());
  return declarations.filter(Boolean).flatMap((declaration): [string, string][] => {
    const [, type, field] = /^(.*?)(\w+)$/s.exec(declaration)!;
    if (type.trim() === "ScoreParams") return fieldsOf("ScoreParams");
    return [[field, type.includes("*") ? "pointer" : type.trim()]];
  });
}

test.each([
  ["ScoreParams", SCORE_PARAMS],
  ["ForwardParams", FORWARD_PARAMS],
  ["BackwardParams", BACKWARD_PARAMS],
  ["LinearParams", LINEAR_PARAMS],
  ["Part", PART],
] as [string, Fields][])("%s has the fields of the header, in its order and of its types", (name, fields) => {
  expect(Object.entries(fields)).toEqual(fieldsOf(name));
});

test("dtype codes are those of the header", () => {
  const [, names] = /typedef enum \{([^}]*)\} Dtype/.exec(header("dtype.h"))!;
  const codes = names.split(",").map((name, code) => [name.trim().toLowerCase(), code]);
  expect(Object.entries(DTYPE_CODES)).toEqual(codes);
});

test("fields are written at their offsets and others are left alone", () => {
  const words = new Int32Array(sizeOf(PART) / 4).fill(7);
  writeFields(words, PART, { width: 2 ** 32 - 1 });
  expect([...words]).toEqual([7, -1]);
  expect(() => writeFields(words, PART, { with: 1 })).toThrow(RangeError);
});

test("a float is written as its bits", () => {
  const words = new Int32Array(sizeOf(SCORE_PARAMS) / 4);
  writeFields(words, SCORE_PARAMS, { softcap: -Infinity });
  expect(words[0]).toBe(0xff800000 | 0);
});

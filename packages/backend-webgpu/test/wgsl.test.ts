import { describe, expect, test } from "vitest";
import { evaluate, expand } from "../src/wgsl.ts";

describe("expressions", () => {
  test.each([
    ["1 + 2 * 3", 7],
    ["(1 + 2) * 3", 9],
    ["D / 16 % 3", 1],
    ["D - 1 - 1", 62],
    ["D > 63 && !CAUSAL || 0", 0],
    ["D >= 64 == CAUSAL", 1],
    ["-D + 65", 1],
  ])("%s is %d for D = 64, CAUSAL = true", (expression, value) => {
    expect(evaluate(expression, { D: 64, CAUSAL: true })).toBe(value);
  });

  test.each([
    ["E", /no parameter E/],
    ["(1", /missing \)/],
    ["1 2", /unexpected 2/],
    ["1 +", /unexpected end/],
    ["constructor", /no parameter constructor/],
  ])("%s is refused", (expression, message) => {
    expect(() => evaluate(expression, { D: 64 })).toThrow(message);
  });
});

describe("directives", () => {
  const run = (text: string, params = {}): string =>
    expand("main", params, { main: text, part: "part ${N}", "": "" }).replaceAll(/\s+/g, " ").trim();

  test("a file is included once", () => {
    expect(run('//#include "part"\nx\n//#include "part"', { N: 3 })).toBe("part 3 x");
  });
  test("the first branch that holds is taken, others leave nothing behind", () => {
    const text = "//#if N == 1\none\n//#elif N == 2\ntwo\n//#else\nmany ${N}\n//#endif";
    expect([1, 2, 3].map((N) => run(text, { N }))).toEqual(["one", "two", "many 3"]);
  });
  test("names of a branch not taken need not exist", () => {
    expect(run("//#if A\n${B}\n//#endif\nx", { A: false })).toBe("x");
  });
  test("loops nest and count from 0", () => {
    expect(run("//#for i in 2\n//#for j in N\na${i}_${j}\n//#endfor\n//#endfor", { N: 2 })).toBe("a0_0 a0_1 a1_0 a1_1");
  });
  test.each([
    ["//#if 1\nx", /has no end/],
    ["//#endif", /unmatched directive/],
    ["//#for x\n//#endfor", /name in count/],
    ['//#include "missing"', /no shader source missing/],
  ])("%j is refused", (text, message) => {
    expect(() => run(text)).toThrow(message);
  });
});

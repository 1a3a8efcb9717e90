import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { createAttention, installedBackends, reference } from "../src/auto.ts";

const missing = (specifier: string): Promise<never> =>
  Promise.reject(
    Object.assign(new Error(`Cannot find package '${specifier}' imported from here`), { code: "ERR_MODULE_NOT_FOUND" }),
  );

// Whoever runs the tests may have set it.
beforeEach(() => void vi.stubEnv("FA_BACKEND", ""));
afterEach(() => void vi.unstubAllEnvs());

describe("@fa/core/auto", () => {
  test("nothing installed: the reference, and how to install each of the others", async () => {
    await using fa = await createAttention({ import: missing });
    expect(fa.backend.name).toBe("reference");
    expect(fa.report.map(({ name, taken, reason }) => [name, taken, reason])).toEqual([
      ["cuda", false, "not installed: npm install @fa/backend-cuda"],
      ["webgpu", false, "not installed: npm install @fa/backend-webgpu"],
      ["wasm", false, "not installed: npm install @fa/backend-wasm"],
      ["reference", true, "the first that works"],
    ]);
  });

  test("packages are asked for in the order of preference, until one works", async () => {
    const asked: string[] = [];
    const installed = async (specifier: string): Promise<unknown> => {
      asked.push(specifier);
      if (specifier !== "@fa/backend-webgpu") return missing(specifier);
      return { webgpu: () => ({ ...reference(), name: "webgpu" }) };
    };
    await using fa = await createAttention({ import: installed });
    expect(asked).toEqual(["@fa/backend-cuda", "@fa/backend-webgpu"]);
    expect(fa.report).toMatchObject([
      { name: "cuda", ok: false },
      { name: "webgpu", taken: true },
      { name: "wasm", reason: expect.stringContaining("not tried") },
      { name: "reference", reason: expect.stringContaining("not tried") },
    ]);
  });

  test.each<[string, () => Promise<unknown>, string]>([
    [
      "fails to load: the cause, not that it is missing",
      () => Promise.reject(new Error("libcuda.so.1: cannot open shared object file")),
      "@fa/backend-wasm failed to load: libcuda.so.1: cannot open shared object file",
    ],
    [
      "lacks a package of its own: the cause, not that it is missing itself",
      () => missing("node-addon-api"),
      "@fa/backend-wasm failed to load: Cannot find package 'node-addon-api' imported from here",
    ],
    [
      "is there, but cannot work here: its own reason",
      async () => ({ wasm: () => ({ ...reference(), probe: async () => ({ ok: false, reason: "no SIMD" }) }) }),
      "no SIMD",
    ],
  ])("a package that %s", async (_, wasm, reason) => {
    await using fa = await createAttention({
      import: (specifier) => (specifier === "@fa/backend-wasm" ? wasm() : missing(specifier)),
    });
    expect(fa.backend.name).toBe("reference");
    expect(fa.report).toMatchObject([{}, {}, { name: "wasm", ok: false, reason }, { taken: true }]);
  });

  test("a package that exports no provider is passed over with a reason", async () => {
    await using fa = await createAttention({ import: async () => ({}) });
    expect(fa.report).toMatchObject([{ ok: false, reason: expect.any(String) }, {}, {}, { taken: true }]);
  });

  test("FA_BACKEND takes that one alone", async () => {
    vi.stubEnv("FA_BACKEND", "reference");
    const asked: string[] = [];
    await using fa = await createAttention({ import: async (specifier) => asked.push(specifier) });
    expect(fa.report).toMatchObject([{ name: "reference", taken: true }]);
    expect(asked).toEqual([]);
  });

  test("FA_BACKEND that does not work is an error with its reason, and nothing else is tried", async () => {
    vi.stubEnv("FA_BACKEND", "wasm");
    await expect(createAttention({ import: missing })).rejects.toMatchObject({
      code: "FA_UNAVAILABLE",
      message: expect.stringContaining("got none: wasm (not installed: npm install @fa/backend-wasm)."),
    });
  });

  test.each(["opengl", "WASM", "toString", "cuda,wasm"])("FA_BACKEND=%s is none of them", async (name) => {
    vi.stubEnv("FA_BACKEND", name);
    await expect(createAttention({ import: missing })).rejects.toMatchObject({
      code: "FA_OPTION",
      message: `createAttention(FA_BACKEND): FA_BACKEND must be one of cuda, webgpu, wasm, reference; got "${name}". Unset it to try them all.`,
    });
  });

  test("select works as in @fa/core", async () => {
    const problem = { H: 1, Sq: 4, D: 2 };
    await using fa = await createAttention({ import: missing, select: "measured", problem });
    expect(fa.report.at(-1)).toMatchObject({ name: "reference", taken: true, ms: expect.any(Number) });
  });
});

describe("installedBackends", () => {
  test("a provider for each, which says on its probe whether it is installed", async () => {
    const providers = installedBackends({ import: missing });
    const probed = await Promise.all(providers.map((provider) => provider.probe()));
    expect(providers.map(({ name }, n) => [name, probed[n].ok])).toEqual([
      ["cuda", false],
      ["webgpu", false],
      ["wasm", false],
      ["reference", true],
    ]);
    expect(probed[2].reason).toBe("not installed: npm install @fa/backend-wasm");
  });

  test("those that are named, in their order, whatever FA_BACKEND says; without names it decides", () => {
    vi.stubEnv("FA_BACKEND", "cuda");
    const named = installedBackends({ names: ["reference", "wasm"], import: missing });
    expect(named.map(({ name }) => name)).toEqual(["reference", "wasm"]);
    expect(installedBackends({ import: missing }).map(({ name }) => name)).toEqual(["cuda"]);
  });

  test.each<[object, RegExp]>([
    [{ names: ["tpu"] }, /installedBackends\(names\): names must be some of cuda, webgpu, wasm, reference/],
    [{ names: [] }, /names must be some of/],
    [{ import: "wasm" }, /installedBackends\(import\): import must be a function/],
    [{ name: "wasm" }, /installedBackends\(options\)/],
  ])("refuses %j", (options, message) => {
    expect(() => installedBackends(options)).toThrow(message);
  });
});

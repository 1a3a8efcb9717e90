/**
 * `@fa/core/auto`: `createAttention` that tries what is installed. For Node, and pages with an import map; bundlers cannot
 * follow imports whose names are data, so bundled code names its back ends with `createAttention` from `@fa/core`.
 */
import { createAttention as createFrom, type Attention } from "./attention.ts";
import type { BackendProvider } from "./backend.ts";
import { refuse, show } from "./errors.ts";
import { checkOptions, mustHold } from "./problem.ts";
import { reference } from "./reference/backend.ts";
import type { Selection } from "./select.ts";

export * from "./index.ts";

/** Back ends in order of preference, by the package and the name that each is exported as. */
const PACKAGES: Readonly<Record<string, string>> = {
  cuda: "@fa/backend-cuda",
  webgpu: "@fa/backend-webgpu",
  wasm: "@fa/backend-wasm",
};

/** Everything that can be looked for. */
const ALL: readonly string[] = [...Object.keys(PACKAGES), "reference"];

export interface InstalledOptions {
  /** How to import a package by name. Pass `(name) => import(name)` to resolve from your own module. */
  readonly import?: ((specifier: string) => Promise<unknown>) | undefined;
  /** Those of cuda, webgpu, wasm and reference to look for, in this order. Default: all, or in Node what `FA_BACKEND` names. */
  readonly names?: readonly string[] | undefined;
}

export interface AutoOptions extends Selection, Pick<InstalledOptions, "import"> {}

/**
 * Opens the best back end that is installed: cuda, webgpu, wasm, then the reference. In Node, `FA_BACKEND=wasm` tries that
 * one alone.
 * @throws FaError FA_OPTION if FA_BACKEND names none of them, FA_UNAVAILABLE if the one it names does not work
 */
export async function createAttention(options: AutoOptions = {}): Promise<Attention> {
  checkOptions("createAttention", options, ["select", "problem", "store", "import"]);
  const { import: importPackage, ...selection } = options;
  return createFrom({ ...selection, backends: providersOf("createAttention", wanted(), importPackage) });
}

/**
 * What `createAttention` of this module chooses from, as providers, for those who ask each one. A package is imported when its
 * provider is probed; one that is not installed says so there.
 * @throws FaError FA_OPTION
 */
export function installedBackends(options: InstalledOptions = {}): BackendProvider[] {
  const where = "installedBackends";
  checkOptions(where, options, ["import", "names"]);
  const { import: importPackage, names = wanted() } = options;
  const known = Array.isArray(names) && names.length > 0 && names.every((name) => ALL.includes(name));
  mustHold(known, where, "names", `some of ${ALL.join(", ")}`, names, "Leave it out for all of them.");
  return providersOf(where, names, importPackage);
}

function providersOf(
  where: string,
  names: readonly string[],
  importPackage: InstalledOptions["import"] = importInstalled,
): BackendProvider[] {
  mustHold(
    typeof importPackage === "function",
    where,
    "import",
    "a function from a package's name to its module",
    importPackage,
    "Pass (name) => import(name).",
  );
  return names.map((name) => discovered(name, importPackage));
}

function wanted(): readonly string[] {
  const named = (globalThis as { process?: { env?: Record<string, string | undefined> } }).process?.env?.FA_BACKEND;
  if (!named) return ALL;
  if (!ALL.includes(named)) {
    refuse("FA_OPTION", {
      where: "createAttention(FA_BACKEND)",
      rule: `FA_BACKEND must be one of ${ALL.join(", ")}`,
      got: show(named),
      fix: "Unset it to try them all.",
    });
  }
  return [named];
}

/** A provider whose package is imported when it is probed. */
function discovered(name: string, importPackage: (specifier: string) => Promise<unknown>): BackendProvider {
  const specifier = PACKAGES[name];
  if (specifier === undefined) return reference();
  let provider: BackendProvider | undefined;
  return {
    name,
    async probe() {
      let module: Record<string, () => BackendProvider>;
      try {
        module = (await importPackage(specifier)) as typeof module;
      } catch (error) {
        return { ok: false, reason: notImported(specifier, error) };
      }
      provider = module[name]();
      return provider.probe();
    },
    open: () => provider!.open(),
  };
}

function notImported(specifier: string, error: unknown): string {
  const { code, message } = error as { code?: string; message?: string };
  const missing = code === "ERR_MODULE_NOT_FOUND" && message?.includes(specifier);
  return missing || !message ? `not installed: npm install ${specifier}` : `${specifier} failed to load: ${message}`;
}

/** From this package, and where a strict package manager hides siblings from it, from the working directory. */
async function importInstalled(specifier: string): Promise<unknown> {
  try {
    return await import(/* @vite-ignore */ /* webpackIgnore: true */ specifier);
  } catch (error) {
    const found = resolveFromWorkingDirectory(specifier);
    if (found === undefined) throw error;
    return import(/* @vite-ignore */ /* webpackIgnore: true */ found);
  }
}

interface Node {
  cwd(): string;
  getBuiltinModule(name: "module"): { createRequire: (from: string) => { resolve(specifier: string): string } };
  getBuiltinModule(name: "url"): { pathToFileURL: (path: string) => URL };
}

function resolveFromWorkingDirectory(specifier: string): string | undefined {
  const { process } = globalThis as { process?: Node };
  try {
    const { createRequire } = process!.getBuiltinModule("module");
    const { pathToFileURL } = process!.getBuiltinModule("url");
    return pathToFileURL(createRequire(`${process!.cwd()}/`).resolve(specifier)).href;
  } catch {
    return undefined;
  }
}

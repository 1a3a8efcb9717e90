// node tools/check-imports.ts: the arrows of ARCHITECTURE.md, checked. Prints each import that breaks one; exits 1 then.
//
//   core         imports nothing: no package, no Node. Only auto.ts may name back ends, and only in `await import()`.
//   backend-*    core
//   conformance  core
//   nn           core
//   apps/*       every @fa package; apps/web the app bench besides, through its exports
//   tools        every @fa package; nothing imports tools but tests and the root's configuration
//
// Node's modules appear only in files that say so: `*.node.ts`, `cli.ts`, a bin, apps but the page, tools and tests. What a package
// imports from npm is among its own dependencies. Another @fa package is imported by name, through its exports.
// Tests, harnesses and a package's own tools may import any @fa package and the root's devDependencies besides.

import { existsSync, globSync, readFileSync } from "node:fs";
import { isBuiltin } from "node:module";
import { posix } from "node:path";
import { parseSync } from "vite";
import { root } from "./test-needs.ts";

export interface Manifest {
  readonly name: string;
  readonly exports?: Readonly<Record<string, unknown>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

export interface Violation {
  readonly file: string;
  readonly specifier: string;
  readonly rule: string;
}

interface Import {
  readonly specifier: string;
  readonly dynamic: boolean;
}

/** Every specifier a source names: static, type-only, re-exported, dynamic, `import("x").T`. */
export function importsOf(file: string, source: string): Import[] {
  const { program, errors } = parseSync(file, source);
  if (errors.length > 0) throw new Error(`${file}: ${errors[0].message}`);
  const imports: Import[] = [];
  const visit = (node: unknown): void => {
    if (Array.isArray(node)) return node.forEach(visit);
    if (typeof node !== "object" || node === null) return;
    const { type, source: from } = node as {
      type?: string;
      source?: { value?: unknown; quasis?: { value: { cooked: string } }[] };
    };
    if (type && from && /^(Import|Export)\w*Declaration$|^ImportExpression$|^TSImportType$/.test(type)) {
      const specifier = from.value ?? (from.quasis?.length === 1 ? from.quasis[0].value.cooked : undefined);
      if (typeof specifier === "string") imports.push({ specifier, dynamic: type === "ImportExpression" });
    }
    Object.values(node).forEach(visit);
  };
  visit(program);
  return imports;
}

/** What a file may import. */
interface Licence {
  readonly fa: (packageName: string, dynamic: boolean) => boolean;
  readonly node: boolean;
  /** Names of the npm packages. */
  readonly npm: ReadonlySet<string>;
  /** The folders that relative imports may lead to. */
  readonly folders: readonly string[];
}

const namesIn = (...groups: (Readonly<Record<string, string>> | undefined)[]): Set<string> =>
  new Set(groups.flatMap((group) => Object.keys(group ?? {})));

function licenceOf(file: string, manifests: ReadonlyMap<string, Manifest>): Licence {
  /** The apps are at the end of the arrows: only the page takes from another. */
  const everything = (name: string): boolean => name !== "@fa/bench" || file.startsWith("apps/web/");
  const rootManifest = manifests.get("")!;
  const development = namesIn(rootManifest.devDependencies, rootManifest.optionalDependencies);
  const [, home, area] = /^((?:packages|apps)\/[^/]+)\/([^/]+)\//.exec(file) ?? [];
  if (!home || !area) return { fa: everything, node: true, npm: development, folders: ["."] };

  const manifest = manifests.get(home)!;
  const runtime = namesIn(manifest.dependencies, manifest.peerDependencies, manifest.optionalDependencies);
  if (area === "test" || area === "tools" || area === "harness") {
    const npm = new Set([...runtime, ...namesIn(manifest.devDependencies), ...development]);
    return { fa: everything, node: true, npm, folders: [home, "tools"] };
  }
  const bin = area === "bin";
  const folders = bin ? [`${home}/bin`, `${home}/dist`] : [`${home}/src`];
  // A page has no Node.
  if (home.startsWith("apps/")) return { fa: everything, node: home !== "apps/web", npm: runtime, folders };
  if (home === "packages/core") {
    const discovers = file === "packages/core/src/auto.ts";
    return {
      fa: (name, dynamic) => discovers && dynamic && name.startsWith("@fa/backend-"),
      node: false,
      npm: new Set(),
      folders,
    };
  }
  return { fa: (name) => name === "@fa/core", node: bin || /(\.node|\/cli)\.ts$/.test(file), npm: runtime, folders };
}

/**
 * @param sources text by path from the root, "/" between folders
 * @param manifests package.json by folder from the root, "" for the root's own
 */
export function checkImports(
  sources: ReadonlyMap<string, string>,
  manifests: ReadonlyMap<string, Manifest>,
): Violation[] {
  const byName = new Map([...manifests.values()].map((manifest) => [manifest.name, manifest]));

  function ruleBrokenBy({ specifier, dynamic }: Import, file: string, licence: Licence): string | undefined {
    if (specifier.startsWith(".")) {
      const target = posix.join(posix.dirname(file), specifier);
      if (
        licence.folders.some((folder) => (folder === "." ? !target.startsWith("..") : target.startsWith(`${folder}/`)))
      )
        return;
      return `leaves ${licence.folders.join(" and ")}; import another package by name`;
    }
    if (isBuiltin(specifier)) {
      return licence.node
        ? undefined
        : "Node's modules belong in *.node.ts, cli.ts, apps, tools or tests, and never in core";
    }
    const name = specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
    if (!name.startsWith("@fa/"))
      return licence.npm.has(name) ? undefined : `${name} is not among this package's dependencies`;

    if (!licence.fa(name, dynamic)) return `no arrow leads from here to ${name}`;
    const manifest = byName.get(name);
    if (!manifest) return dynamic ? undefined : `there is no package ${name}`;
    const subpath = `.${specifier.slice(name.length)}`;
    return manifest.exports && subpath in manifest.exports ? undefined : `${name} does not export "${subpath}"`;
  }

  return [...sources].flatMap(([file, source]) => {
    const licence = licenceOf(file, manifests);
    return importsOf(file, source).flatMap((one) => {
      const rule = ruleBrokenBy(one, file, licence);
      return rule === undefined ? [] : [{ file, specifier: one.specifier, rule }];
    });
  });
}

function read(pattern: string): string[] {
  const skip = (name: string): boolean => name === "node_modules" || name === "dist";
  return globSync(pattern, { cwd: root, exclude: (path) => skip(posix.basename(path)) }).map((path) =>
    path.replaceAll("\\", "/"),
  );
}

if (import.meta.main) {
  const files = [
    "*.ts",
    "tools/**/*.{ts,mjs}",
    "{packages,apps}/*/{src,test,tools,harness,bin}/**/*.{ts,tsx,mjs,js}",
  ].flatMap(read);
  const sources = new Map(files.map((file) => [file, readFileSync(posix.join(root, file), "utf8")]));
  const folders = ["", ...read("{packages,apps}/*")].filter((folder) =>
    existsSync(posix.join(root, folder, "package.json")),
  );
  const manifests = new Map(
    folders.map((folder) => [
      folder,
      JSON.parse(readFileSync(posix.join(root, folder, "package.json"), "utf8")) as Manifest,
    ]),
  );
  const violations = checkImports(sources, manifests);
  for (const { file, specifier, rule } of violations) console.log(`${file}: "${specifier}": ${rule}`);
  console.log(`${sources.size} files, ${violations.length} imports against the arrows`);
  process.exitCode = violations.length === 0 && sources.size > 0 ? 0 : 1;
}

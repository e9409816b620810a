// The tests read the style sheet; the front end itself knows no files.
declare module "node:fs" {
  export function readFileSync(path: URL, encoding: "utf8"): string;
}

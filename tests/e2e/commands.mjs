// The commands of a document: the lines of its code blocks without a language, and indented lines that begin with the program.
export function commands(text) {
  const found = [];
  for (const [, language, fenced, indented] of text.matchAll(/^```(\w*)\n([\s\S]*?)^```|^ {4}(mcp-auth-proxy .*)$/gm)) {
    if (language) continue;
    for (const line of (fenced ?? indented).replaceAll(/\\\n\s*/g, "").split("\n").map((line) => line.trim())) {
      // Blocks of settings, and what is no command.
      if (line !== "" && !/^[A-Z_]+=/.test(line)) found.push(line);
    }
  }
  return found;
}

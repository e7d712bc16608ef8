// The API as a page, drawn from the server's own OpenAPI document.

function node(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const code = (text) => node("code", {}, text);
/** A docstring without the marks of its markup. */
const plain = (text) => (text ?? "").replaceAll(/:\w+:`([^`]*)`/g, "$1").replaceAll("``", "");
const nameOf = (reference) => reference.split("/").at(-1);

/** What values a schema takes, in words and links to the schemas that have a name. */
function kind(schema) {
  if (schema.$ref) return [node("a", { href: `#${nameOf(schema.$ref)}` }, nameOf(schema.$ref))];
  if (schema.enum) return [code(schema.enum.map((value) => JSON.stringify(value)).join(" | "))];
  if (schema.const !== undefined) return [code(JSON.stringify(schema.const))];
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.flatMap((one, place) => (place ? [" or ", ...kind(one)] : kind(one)));
  if (schema.type === "array") return ["list of ", ...kind(schema.items ?? {})];
  return [schema.type ?? "any"];
}

/** The bounds that a schema sets. */
function bounds(schema) {
  const told = {
    minimum: "from", exclusiveMinimum: "above", maximum: "to", minLength: "at least", minItems: "at least", maxItems: "at most",
  };
  const found = Object.entries(told).filter(([name]) => schema[name] !== undefined);
  return found.map(([name, word]) => ` ${word} ${schema[name]}`).join("");
}

function table(schema) {
  const required = new Set(schema.required);
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) =>
    node("tr", {},
      node("th", { scope: "row" }, code(name), required.has(name) ? " (required)" : ""),
      node("td", {}, ...kind(field), bounds(field)),
      node("td", {}, plain(field.description)),
    ));
  const heads = ["field", "type", "meaning"].map((head) => node("th", { scope: "col" }, head));
  return node("div", { class: "wide" }, node("table", {}, node("thead", {}, node("tr", {}, ...heads)), node("tbody", {}, ...rows)));
}

function bodyOf(content) {
  return Object.entries(content ?? {}).flatMap(([type, { schema }], place) => [place ? "; " : "", `${type}: `, ...kind(schema ?? {})]);
}

function operation(method, path, found) {
  const id = `${method}${path}`;
  const asked = found.requestBody ? [node("p", {}, "Body: ", ...bodyOf(found.requestBody.content))] : [];
  const answers = Object.entries(found.responses).map(([status, answer]) =>
    node("li", {}, node("b", {}, status), " ", answer.description, ...(answer.content ? [" (", ...bodyOf(answer.content), ")"] : [])));
  const title = node("h2", { id: `${id}-title` }, code(`${method.toUpperCase()} ${path}`));
  const parts = [title, node("p", {}, plain(found.description)), ...asked, node("ul", {}, ...answers)];
  return node("section", { id, "aria-labelledby": `${id}-title` }, ...parts);
}

function draw({ paths, components }) {
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, found]) => operation(method, path, found)));
  const schemas = Object.entries(components.schemas).map(([name, schema]) =>
    node("section", { id: name, "aria-labelledby": `${name}-title` },
      node("h3", { id: `${name}-title` }, name), node("p", {}, plain(schema.description)), table(schema)));
  const links = operations.map((one) => node("li", {}, node("a", { href: `#${one.id}` }, code(one.querySelector("h2").textContent))));
  document.querySelector("#contents").append(...links);
  document.querySelector("#operations").append(...operations, node("h2", {}, "Bodies"), ...schemas);
}

fetch("openapi.json").then((answer) => answer.json()).then(draw).catch((error) => {
  document.querySelector("#status").textContent = `The description of the API did not come: ${error.message}`;
});

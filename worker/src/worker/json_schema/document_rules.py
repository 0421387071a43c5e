"""The forms of a document -> rules of a Lark grammar, in llguidance's dialect."""

from worker.json_schema.array_rules import array_expression
from worker.json_schema.document_forms import Array, Form, Limits, Object, Value
from worker.json_schema.leaf_rules import Literals, Number, String, leaf_rule
from worker.json_schema.object_rules import object_expression
from worker.json_schema.schema_forms import SchemaForms


class DocumentRules:
    """Collects the rules of all schemas of one answer; equal ones are written once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._names: dict[str, str] = {}
        """Of rules, by their right side."""
        self._free: dict[Limits, str] = {}

    def document(self, forms: SchemaForms, limits: Limits) -> str:
        """The name of the rule for a document of these forms, whose root is finite."""
        schema = _SchemaRules(self, limits)
        name = schema.value_of(forms.root)
        schema.write()
        return name

    def named(self, rule: tuple[str, bool]) -> str:
        """The name of the rule with this right side; a terminal where it may be one."""
        right, terminal = rule
        if right not in self._names:
            name = f"{'TERMINAL' if terminal else 'rule'}_{len(self.lines)}"
            self._names[right] = name
            self.lines.append(f"{name}: {right}")
        return self._names[right]

    def free(self, limits: Limits) -> str:
        """The name of the rule for any JSON value."""
        if limits not in self._free:
            name = self._free[limits] = f"free_{len(self.lines)}"
            self.lines.append("")
            at = len(self.lines) - 1
            string = self.leaf(String(0, None, (), (), limits.string))
            number = self.leaf(Number(False, None, None, ()))
            word = self.leaf(Literals(("true", "false", "null")))
            pair = self.named((f'{string} ": " {name}', False))
            more = max(0, limits.entries - 1)
            members = f'"{{" ({pair} (", " {pair}){{0,{more}}})? "}}"'
            entries = f'"[" ({name} (", " {name}){{0,{more}}})? "]"'
            self.lines[at] = f"{name}: {members} | {entries} | {string} | {number} | {word}"
        return self._free[limits]

    def leaf(self, leaf: Literals | Number | String) -> str:
        """The name of a leaf's rule."""
        rule = leaf_rule(leaf)
        assert rule is not None, "forms have only leaves that are possible"
        return self.named(rule)


class _SchemaRules:
    """The rules of one schema's values, each written when it is first named."""

    def __init__(self, rules: DocumentRules, limits: Limits) -> None:
        self._rules = rules
        self._limits = limits
        self._names: dict[int, str] = {}
        self._pending: list[Value] = []

    def value_of(self, value: Value) -> str:
        """The name of the value's rule."""
        if value.free:
            return self._rules.free(self._limits)
        if value.number not in self._names:
            self._names[value.number] = f"value_{len(self._rules.lines)}"
            self._rules.lines.append("")
            self._pending.append(value)
        return self._names[value.number]

    def write(self) -> None:
        """Writes all rules that were named, and those that they name."""
        while self._pending:
            value = self._pending.pop()
            name = self._names[value.number]
            options = [self.value_of(way) for way in value.ways if way.finite]
            for form in value.forms:
                expression = self._expression(form)
                if expression is not None:
                    options.append(expression)
            at = int(name.rpartition("_")[2])
            # Without an option only the judge can tell: the number of an object's properties left none.
            self._rules.lines[at] = f"{name}: {' | '.join(options) or self._rules.free(self._limits)}"

    def _expression(self, form: Form) -> str | None:
        match form:
            case Array():
                return array_expression(form, self.value_of, self._rules.named, self._limits)
            case Object():
                return object_expression(form, self.value_of, self._rules.named, self._limits.entries)
            case _:
                return self._rules.leaf(form)

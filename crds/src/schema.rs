//! What the schema of the kinds needs beyond the derive: rules with remedies, bounds of foreign types, and the shape that
//! the API server wants. It decides nothing at run time: all of it ends up in the YAML of the definitions.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// `x-kubernetes-validations`: pairs of a CEL rule and the message that says the remedy.
pub(crate) fn rules<const N: usize>(rules: [(&str, &str); N]) -> Value {
    rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect()
}

/// A period in whole hours, minutes and seconds, between two bounds.
pub(crate) fn period(lowest: &str, highest: &str) -> Value {
    let well_formed = "self.matches('^([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$') && self != ''";
    let bounded = format!("!({well_formed}) || (duration(self) >= duration('{lowest}') && duration(self) <= duration('{highest}'))");
    rules([
        (well_formed, "not a period: write whole hours, minutes and seconds in this order, as in 45s, 10m or 1h30m"),
        (&bounded, &format!("out of range: use at least {lowest} and at most {highest}")),
    ])
}

/// A number of addresses, or the word for what is learned.
pub(crate) fn initial(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "x-kubernetes-validations": rules([
            ("type(self) == int ? (self >= 0 && self <= 255) : self == 'Auto'", "use Auto, or a number of addresses from 0 to 255"),
        ]),
    })
}

/// A list of IPv4 prefixes in their canonical spelling.
pub(crate) fn prefixes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "x-kubernetes-validations": rules([("self.all(x, self.exists_one(y, x == y))", "an entry is there twice: keep one of them")]),
        "items": {
            "type": "string",
            "maxLength": 43,
            "x-kubernetes-validations": rules([
                ("isCIDR(self)", "not a prefix: write it as address/length, as in 10.1.0.0/16; a single address ends in /32"),
                (
                    "!isCIDR(self) || cidr(self).ip().family() == 4",
                    "IPv6 is not supported: pods get IPv4 addresses only; remove the entry",
                ),
                (
                    "!isCIDR(self) || cidr(self) == cidr(self).masked()",
                    "bits are set beyond the length: write the network's own address, as in 10.1.0.0/16 instead of 10.1.2.3/16",
                ),
            ]),
        },
    })
}

/// A list of IPv4 addresses.
pub(crate) fn addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "atomic",
        "x-kubernetes-validations": rules([("self.all(x, self.exists_one(y, x == y))", "an entry is there twice: keep one of them")]),
        "items": {
            "type": "string",
            "maxLength": 39,
            "x-kubernetes-validations": rules([
                ("isIP(self)", "not an address: write four numbers with dots between them, as in 169.254.20.10"),
                ("!isIP(self) || ip(self).family() == 4", "IPv6 is not supported: pods get IPv4 addresses only; remove the entry"),
            ]),
        },
    })
}

/// A label selector, bounded. The API server's own rules for selectors do not reach into custom kinds.
pub(crate) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    let needs_values = "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)";
    let needs_none = "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0";
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels that a node must have, with these values.",
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "description": "Further requirements; all must hold.",
                "type": "array",
                "maxItems": 32,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"description": "The label's key.", "type": "string", "minLength": 1, "maxLength": 317},
                        "operator": {
                            "description": "How the label's value relates to `values`.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "Values for In and NotIn; none for Exists and DoesNotExist.",
                            "type": "array",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                    "x-kubernetes-validations": rules([
                        (needs_values, "In and NotIn compare with values: give at least one in values, or use Exists"),
                        (needs_none, "Exists and DoesNotExist look at the key only: remove values, or use In"),
                    ]),
                },
            },
        },
    })
}

/// Plugins of a chain: any object with a type, kept as it is.
pub(crate) fn chain(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "required": ["type"],
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "type": {
                    "description": "The plugin's executable in /opt/cni/bin.",
                    "type": "string",
                    "maxLength": 63,
                    "x-kubernetes-validations": rules([
                        ("self != ''", "a chained plugin needs a type: the name of its executable, as in portmap"),
                        ("!self.contains('/')", "a type is the name of an executable in /opt/cni/bin, not a path: remove the folder"),
                        (
                            "!(self in ['azure-vnet', 'azure-vnet-ipam', '.', '..'])",
                            "azure-vnet always runs first and brings its own address management: list only the plugins that run after it",
                        ),
                    ]),
                },
            },
        },
    })
}

/// Conditions, merged by type, so that controller and agent each own theirs.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {"description": "What it speaks of.", "type": "string", "maxLength": 316},
                "status": {"description": "Whether it holds.", "type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {
                    "description": "Why, in one word for programs.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {"description": "Why, and what to do, for people.", "type": "string", "maxLength": 32768},
                "lastTransitionTime": {"description": "When the status last changed.", "type": "string", "format": "date-time"},
                "observedGeneration": {
                    "description": "The generation of the object that it speaks of.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
            },
        },
    })
}

/// For what users write: unsigned numbers in a form that the API server knows.
pub(crate) fn written_by_users(schema: &mut Schema) {
    each_object(schema.as_object_mut(), &mut signed);
}

/// For what only the controller and the agents write: no defaults, which would bloat the objects and belong to nobody.
pub(crate) fn written_by_machines(schema: &mut Schema) {
    each_object(schema.as_object_mut(), &mut |object| {
        signed(object);
        object.remove("default");
    });
}

/// For values copied from an object that was validated: neither defaults nor rules, above all none that forbids a change.
pub(crate) fn copied(schema: &mut Schema) {
    each_object(schema.as_object_mut(), &mut |object| {
        object.remove("default");
        object.remove("x-kubernetes-validations");
    });
}

/// The API server knows no unsigned formats and warns of them.
fn signed(object: &mut Map<String, Value>) {
    match object.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16" | "uint32") => object.insert("format".into(), "int32".into()),
        Some("uint64") => object.insert("format".into(), "int64".into()),
        _ => None,
    };
}

/// Visits a schema and the schemas of its properties, items and values, and nothing that merely looks like one.
fn each_object(schema: Option<&mut Map<String, Value>>, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    let Some(schema) = schema else { return };
    visit(schema);
    for key in ["items", "additionalProperties"] {
        each_object(schema.get_mut(key).and_then(Value::as_object_mut), visit);
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for property in properties.values_mut() {
        each_object(property.as_object_mut(), visit);
    }
}

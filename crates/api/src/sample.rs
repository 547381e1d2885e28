//! Objects made from the schema alone, for tests: every field filled, or a random choice of them.

use serde_json::{Map, Value, json};

use crate::schema::{Cardinality, Field, FieldType, Message};

/// Chooses what goes into a made-up object.
pub struct Sampler {
    state: u64,
    /// Of a hundred fields, how many are set.
    percent: u64,
    /// How deep messages may nest.
    depth: usize,
    /// Messages around the one that is filled, by name.
    inside: Vec<&'static str>,
}

impl Sampler {
    /// Sets every field, down to this depth.
    pub fn full(depth: usize) -> Self {
        Self { state: 1, percent: 100, depth, inside: Vec::new() }
    }

    /// Sets some fields, chosen by a seed.
    pub fn random(seed: u64, percent: u64, depth: usize) -> Self {
        Self { state: seed, percent, depth, inside: Vec::new() }
    }

    /// The next of a fixed sequence of numbers below `bound` (splitmix64).
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// A JSON object of this message.
    pub fn object(&mut self, message: &Message) -> Value {
        Value::Object(self.message(message, self.depth))
    }

    fn message(&mut self, message: &Message, depth: usize) -> Map<String, Value> {
        let mut map = Map::new();
        self.inside.push(message.name);
        for field in message.json_fields() {
            // An unset required time is null in upstream's JSON, which not every reader takes.
            let always = field.required && matches!(field.ty, FieldType::Time);
            if self.below(100) >= self.percent && !always {
                continue;
            }
            if let Some(value) = self.field(field, depth) {
                map.insert(field.json.to_owned(), value);
            }
        }
        self.inside.pop();
        map
    }

    fn field(&mut self, field: &Field, depth: usize) -> Option<Value> {
        if let Some(message) = field.ty.message() {
            // What contains itself does so once.
            let again = self.inside.iter().filter(|name| **name == message.name).count() > 1;
            if again || depth == 0 {
                return None;
            }
        }
        let count = if self.percent == 100 { 2 } else { self.below(4) };
        Some(match field.cardinality {
            Cardinality::Singular => self.value(field.ty, depth),
            Cardinality::Map => {
                let mut map = Map::new();
                for i in 0..count {
                    map.insert(format!("k{i}"), self.value(field.ty, depth));
                }
                Value::Object(map)
            }
            Cardinality::List => self.list(field, count, depth),
        })
    }

    fn list(&mut self, field: &Field, count: u64, depth: usize) -> Value {
        let mut items: Vec<Value> = Vec::new();
        let mut used: Vec<Value> = Vec::new();
        for _ in 0..count {
            let mut item = self.value(field.ty, depth);
            if let (Some(key), Value::Object(map)) = (field.merge_key, &mut item) {
                let FieldType::Message(message) = field.ty else { continue };
                let id = loop {
                    let n = self.below(6);
                    let numeric = message.field(key).is_some_and(|f| matches!(f.ty, FieldType::I32 | FieldType::I64));
                    let id = if numeric { json!(n + 1) } else { json!(format!("id{n}")) };
                    if !used.contains(&id) {
                        break id;
                    }
                };
                used.push(id.clone());
                map.insert(key.to_owned(), id);
            } else if field.merge_set && used.contains(&item) {
                continue;
            } else if field.merge_set {
                used.push(item.clone());
            }
            items.push(item);
        }
        Value::Array(items)
    }

    fn value(&mut self, ty: FieldType, depth: usize) -> Value {
        let n = self.below(9) + 1;
        match ty {
            FieldType::Bool => json!(true),
            FieldType::I32 | FieldType::I64 => json!(n),
            FieldType::F64 => json!(1.5),
            FieldType::String => json!(format!("text{n}")),
            FieldType::Bytes => json!("aGk="),
            FieldType::Message(_) | FieldType::Either(_) => {
                ty.message().map_or(Value::Null, |message| Value::Object(self.message(message, depth.saturating_sub(1))))
            }
            FieldType::Time => json!(format!("2024-01-0{n}T00:00:00Z")),
            FieldType::Duration => json!(format!("{n}s")),
            FieldType::Quantity => json!(format!("{n}Gi")),
            FieldType::IntOrString if n.is_multiple_of(2) => json!(n),
            FieldType::IntOrString => json!(format!("port{n}")),
            FieldType::Strings => json!(["a", "b"]),
            FieldType::Json => json!({"f:a": {"f:b": {}}}),
        }
    }
}

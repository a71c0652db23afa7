//! MessagePack as the relay speaks it, told as JSON: what is bytes there is base64 text here.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Serialize, Serializer,
    de::{self, Deserialize, Deserializer, MapAccess, SeqAccess},
};
use serde_json::{Map, Value, json};

/// Fields that hold bytes.
const BYTES: [&str; 2] = ["ciphertext", "ephemeral_key"];

pub fn pack(frame: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(&Packed(frame)).unwrap()
}

pub fn unpack(bytes: &[u8]) -> Value {
    rmp_serde::from_slice::<Unpacked>(bytes).unwrap().0
}

struct Packed<'a>(&'a Value);

struct Raw<'a>(&'a Value);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::String(text) => serializer.serialize_bytes(&STANDARD.decode(text).unwrap()),
            other => Packed(other).serialize(serializer),
        }
    }
}

impl Serialize for Packed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(list) => serializer.collect_seq(list.iter().map(Packed)),
            Value::Object(map) => {
                let mut fields = serializer.serialize_map(Some(map.len()))?;
                for (name, value) in map {
                    if BYTES.contains(&name.as_str()) {
                        serde::ser::SerializeMap::serialize_entry(&mut fields, name, &Raw(value))?;
                    } else {
                        serde::ser::SerializeMap::serialize_entry(&mut fields, name, &Packed(value))?;
                    }
                }
                serde::ser::SerializeMap::end(fields)
            }
            other => other.serialize(serializer),
        }
    }
}

struct Unpacked(Value);

impl<'de> Deserialize<'de> for Unpacked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(Self)
    }
}

struct Any;

impl<'de> de::Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(json!(STANDARD.encode(value)))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unpacked(item)) = seq.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unpacked(value))) = map.next_entry::<String, Unpacked>()? {
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

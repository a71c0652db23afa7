//! The body of a `devices_changed` notice as the engines store it: a version byte, then the devices one after another.

use std::sync::Arc;

use crate::domain::{DeviceId, DeviceNumber, ListedDevice, RegistrationId};

const VERSION: u8 = 1;

/// Writes a list of devices.
pub(super) fn encode(devices: &[ListedDevice]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for device in devices {
        let id = device.device_id.as_str().as_bytes();
        bytes.push(device.device_number.get());
        bytes.extend(device.registration_id.get().to_be_bytes());
        // A device id has at most 64 bytes.
        bytes.push(u8::try_from(id.len()).unwrap_or(0));
        bytes.extend(id);
    }
    bytes
}

/// Reads a list of devices; none when these are not the bytes of one.
pub(super) fn decode(bytes: &[u8]) -> Option<Arc<[ListedDevice]>> {
    let (&VERSION, mut rest) = bytes.split_first()? else { return None };
    let mut devices = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(4)?;
        let (id, tail) = tail.split_at_checked(usize::from(head[3]))?;
        devices.push(ListedDevice {
            device_id: DeviceId::parse(std::str::from_utf8(id).ok()?).ok()?,
            device_number: DeviceNumber::new(head[0].into()).ok()?,
            registration_id: RegistrationId::new(u16::from_be_bytes([head[1], head[2]]).into()).ok()?,
        });
        rest = tail;
    }
    Some(devices.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_as_it_was_written() {
        let device = |id: &str, number, registration| ListedDevice {
            device_id: DeviceId::parse(id).unwrap(),
            device_number: DeviceNumber::new(number).unwrap(),
            registration_id: RegistrationId::new(registration).unwrap(),
        };
        let longest = "x".repeat(64);
        for list in
            [vec![], vec![device("a", 1, 1)], vec![device("phone", 127, 16383), device(&longest, 2, 300)]]
        {
            assert_eq!(decode(&encode(&list)).as_deref(), Some(list.as_slice()));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [&b""[..], b"\x02", b"\x01\x01\x00", b"\x01\x01\x00\x01\x05abc", b"\x01\x00\x00\x01\x01a"]
        {
            assert!(decode(bad).is_none(), "{bad:?}");
        }
    }
}

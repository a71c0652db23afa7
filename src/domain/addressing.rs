//! Whether a sender named exactly the devices that the recipient has.

use std::collections::BTreeSet;

use super::{Addressed, Bodies, Device, DeviceId, DeviceName, DeviceNumber, Envelope, RegistrationId};

/// A device that can be named by a sender.
pub trait Addressee {
    /// Its id.
    fn device_id(&self) -> &DeviceId;
    /// Its number.
    fn device_number(&self) -> DeviceNumber;
    /// Its registration id.
    fn registration_id(&self) -> RegistrationId;
}

impl Addressee for Device {
    fn device_id(&self) -> &DeviceId {
        &self.device_id
    }

    fn device_number(&self) -> DeviceNumber {
        self.device_number
    }

    fn registration_id(&self) -> RegistrationId {
        self.registration_id
    }
}

/// How the recipient's device list differs from what the sender named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Active devices that were not named.
    pub missing: BTreeSet<(DeviceId, DeviceNumber)>,
    /// Names that belong to no active device, or name a device twice.
    pub extra: Vec<DeviceName>,
    /// Devices whose registration id is another one.
    pub stale: BTreeSet<(DeviceId, DeviceNumber)>,
}

/// Which device gets which envelope, by index into `devices`.
///
/// # Errors
/// The differences, when bodies are named for other devices than exactly these.
pub fn address<'a>(
    bodies: &'a Bodies,
    devices: &[&impl Addressee],
) -> Result<Vec<(usize, &'a Envelope)>, Mismatch> {
    match bodies {
        Bodies::Same(envelope) => Ok((0..devices.len()).map(|index| (index, envelope)).collect()),
        Bodies::Each(named) => match_devices(named, devices),
    }
}

fn match_devices<'a>(
    named: &'a [Addressed],
    devices: &[&impl Addressee],
) -> Result<Vec<(usize, &'a Envelope)>, Mismatch> {
    let mut mismatch = Mismatch::default();
    let mut matched: Vec<(usize, &Envelope)> = Vec::with_capacity(named.len());
    for addressed in named {
        let found = devices.iter().position(|device| match &addressed.device {
            DeviceName::Id(id) => device.device_id() == id,
            DeviceName::Number(number) => device.device_number() == *number,
        });
        let Some(index) = found.filter(|index| matched.iter().all(|(taken, _)| taken != index)) else {
            mismatch.extra.push(addressed.device.clone());
            continue;
        };
        if addressed.registration_id.is_some_and(|id| id != devices[index].registration_id()) {
            mismatch.stale.insert(name_of(devices[index]));
        }
        matched.push((index, &addressed.envelope));
    }
    for (index, device) in devices.iter().enumerate() {
        if matched.iter().all(|(taken, _)| *taken != index) {
            mismatch.missing.insert(name_of(*device));
        }
    }
    if mismatch == Mismatch::default() { Ok(matched) } else { Err(mismatch) }
}

fn name_of(device: &impl Addressee) -> (DeviceId, DeviceNumber) {
    (device.device_id().clone(), device.device_number())
}

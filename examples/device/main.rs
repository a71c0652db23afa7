//! A device for trying the relay out with curl: makes keys, signs, and prints the bodies of requests.
//!
//! The relay holds no private key and has no code to make one; this program stands on the other side. It keeps its
//! private keys in a folder, unencrypted and readable by the owner only: good for a trial, not for messages that
//! matter. Its identity key is Ed25519.

mod keys;

use std::{error::Error, fs, io::Write, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, Parser, Subcommand};
use restante::{
    domain::{DeviceId, UserId},
    keys::signal::{
        link_statement, login_statement, parse_identity_key, recover_statement, register_statement,
    },
};
use serde_json::{Value, json};
use uuid::Uuid;

use keys::{DeviceKeys, FILE, SecretKey};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The shortest filler that `seal` prints.
const FILLER_MIN: usize = 64;
/// What a usual AEAD adds to a text: a nonce of 12 bytes and a tag of 16.
const SEALING_OVERHEAD: usize = 28;

/// Makes keys and request bodies for trying the relay out with curl.
#[derive(Debug, Parser)]
#[command(name = "device")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a device and prints the body for POST /api/v1/keys/register/{user}.
    New(NewDevice),
    /// Prints the body for POST /api/v1/keys/link/{user}, by which the device in DIR vouches for another.
    Link(Newcomer),
    /// Prints the body for POST /api/v1/auth/token, by which the device in DIR answers a challenge.
    Answer(LoginAnswer),
    /// Makes one-time pre-keys and prints the body for POST /api/v1/keys/prekeys/{user}/{device}.
    Prekeys {
        /// The folder of the device.
        #[arg(long)]
        out: PathBuf,
        /// How many to make.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
        count: u16,
    },
    /// Replaces the signed pre-key and prints the body for PUT /api/v1/keys/rotate/{user}/{device}.
    Rotate {
        /// The folder of the device.
        #[arg(long)]
        out: PathBuf,
    },
    /// Prints random bytes, as long as a sealed TEXT would be, in base64. Nothing is encrypted: this is filler for
    /// trying the relay out, which cannot tell it from a ciphertext.
    Seal {
        /// The text whose length is used; the text itself is dropped.
        #[arg(long, default_value = "")]
        text: String,
    },
}

#[derive(Debug, Args)]
struct NewDevice {
    /// The name of the relay, as in its setting `RELAY_NAME`.
    #[arg(long, default_value = "localhost")]
    relay_name: String,
    /// The user's UUID.
    #[arg(long)]
    user: Uuid,
    /// The name of the device: 1 to 64 letters, digits, '.', '_' and '-'.
    #[arg(long)]
    device: String,
    /// How many one-time pre-keys to make.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    prekeys: u16,
    /// The folder of an earlier device of a user that has no device left: its key brings the user back.
    #[arg(long)]
    recover_with: Option<PathBuf>,
    /// The folder to keep the private keys in; it must not hold a device yet.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct LoginAnswer {
    /// The name of the relay, as in its setting `RELAY_NAME`.
    #[arg(long, default_value = "localhost")]
    relay_name: String,
    /// The folder of the device.
    #[arg(long)]
    out: PathBuf,
    /// The challenge, as POST /api/v1/auth/challenge gave it.
    #[arg(long)]
    challenge: String,
}

#[derive(Debug, Args)]
struct Newcomer {
    /// The folder of the device that vouches.
    #[arg(long)]
    out: PathBuf,
    /// The name of the new device.
    #[arg(long)]
    device: String,
    /// The new device's identity key in base64, from the body that it printed for its registration.
    #[arg(long)]
    identity_key: String,
}

fn main() -> Outcome<()> {
    let body = run(Cli::parse().command)?;
    writeln!(std::io::stdout(), "{body}")?;
    Ok(())
}

/// Does one command and answers with the line to print.
fn run(command: Command) -> Outcome<String> {
    let body = match command {
        Command::New(new) => create(&new)?,
        Command::Link(newcomer) => link(&newcomer)?,
        Command::Answer(given) => answer(&given)?,
        Command::Prekeys { out, count } => {
            let mut device = DeviceKeys::load(&out)?;
            let body = device.add_prekeys(count)?;
            device.save(&out)?;
            body
        }
        Command::Rotate { out } => {
            let mut device = DeviceKeys::load(&out)?;
            device.signed_prekey = SecretKey::new(device.signed_prekey.id + 1)?;
            device.save(&out)?;
            device.signed_prekey_body()?
        }
        Command::Seal { text } => return Ok(filler(&text)?),
    };
    Ok(body.to_string())
}

fn create(new: &NewDevice) -> Outcome<Value> {
    if new.out.join(FILE).exists() {
        return Err(format!("{} holds a device already", new.out.display()).into());
    }
    let device_id = DeviceId::parse(&new.device)?;
    let mut device = DeviceKeys::new(new.user, new.device.clone())?;
    let prekeys = device.add_prekeys(new.prekeys)?;
    let public_key = device.signed_prekey.public()?;
    let statement = register_statement(&new.relay_name, UserId::new(new.user), &device_id, &public_key);
    let mut body = json!({
        "device_id": device.device_id,
        "registration_id": device.registration_id,
        "identity_key": STANDARD.encode(device.identity()?.verifying_key().as_bytes()),
        "proof": device.sign(&statement)?,
        "signed_prekey": device.signed_prekey_body()?,
        "onetime_prekeys": prekeys,
    });
    if let Some(earlier) = &new.recover_with {
        let identity_key = parse_identity_key(device.identity()?.verifying_key().as_bytes())?;
        let statement = recover_statement(&new.relay_name, UserId::new(new.user), &identity_key);
        body["recovery_proof"] = DeviceKeys::load(earlier)?.sign(&statement)?.into();
    }
    fs::create_dir_all(&new.out)?;
    device.save(&new.out)?;
    Ok(body)
}

fn link(newcomer: &Newcomer) -> Outcome<Value> {
    let device = DeviceKeys::load(&newcomer.out)?;
    let identity_key = parse_identity_key(&STANDARD.decode(&newcomer.identity_key)?)?;
    let device_id = DeviceId::parse(&newcomer.device)?;
    let statement = link_statement(UserId::new(device.user_id), &device_id, &identity_key);
    Ok(json!({
        "device_id": newcomer.device,
        "identity_key": newcomer.identity_key,
        "signature": device.sign(&statement)?,
    }))
}

fn answer(given: &LoginAnswer) -> Outcome<Value> {
    let device = DeviceKeys::load(&given.out)?;
    let device_id = DeviceId::parse(&device.device_id)?;
    let user_id = UserId::new(device.user_id);
    let statement = login_statement(&given.relay_name, user_id, &device_id, &given.challenge);
    Ok(json!({
        "user_id": device.user_id,
        "device_id": device.device_id,
        "challenge": given.challenge,
        "signature": device.sign(&statement)?,
    }))
}

fn filler(text: &str) -> Result<String, getrandom::Error> {
    let mut bytes = vec![0; FILLER_MIN.max(text.len() + SEALING_OVERHEAD)];
    getrandom::fill(&mut bytes)?;
    Ok(STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests;

//! Says hello in the lobby, and shows what is said there from now on.
//!
//! `NAME=ada PASSWORD=… cargo run --example hello`, beside a server.

use std::{env, error::Error};

use hubbub::client::{Accounts, Client, Delivery, Options, ServerUrl};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server: ServerUrl = "http://127.0.0.1:7878".parse()?;
    let accounts = Accounts::new(server.clone(), None);
    let get_token = accounts.get_token(&env::var("NAME")?, &env::var("PASSWORD")?);
    let client = Client::connect(Options::new(server, get_token));

    let mut lobby = client.subscribe("lobby", None).await?;
    let published = client.publish("lobby", "hello from Rust").await?;
    println!("message {} is durable", published.position.sequence);

    // Reconnects happen in there, and what was missed comes first.
    while let Some(delivery) = lobby.next().await {
        match delivery? {
            Delivery::Message(message) => println!("{} {}", message.sequence, message.body),
            Delivery::Gap { from, to } => println!("{from} to {to}: see `client.history`"),
            Delivery::Reset { .. } => println!("the channel began anew"),
        }
    }
    Ok(())
}

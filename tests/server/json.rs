//! A session as a person types it into websocat, over a WebSocket client that is not ours.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message as Frame, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::harness::{Peer, TestServer, within};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn say(socket: &mut Socket, envelope: &Value) {
    within("a write", socket.send(Frame::text(envelope.to_string()))).await.unwrap();
}

async fn hear(socket: &mut Socket) -> Value {
    match within("a frame", socket.next()).await.unwrap().unwrap() {
        Frame::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_person_can_chat_in_json() {
    let server = TestServer::start().await;
    let mut request = format!("ws://{}/v1/ws", server.address()).into_client_request().unwrap();
    let subprotocol = HeaderValue::from_static("hubbub.v1.json");
    request.headers_mut().insert("Sec-WebSocket-Protocol", subprotocol.clone());
    let (mut socket, response) = within("a handshake", connect_async(request)).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], subprotocol);

    say(&mut socket, &json!({ "id": 1, "authenticate": { "token": server.token("ada") } })).await;
    let welcome = hear(&mut socket).await;
    assert_eq!(welcome["welcome"]["name"], "ada");
    assert_eq!(welcome["welcome"]["messageBytesMax"], 65_536);
    let user = welcome["welcome"]["userId"].clone();
    let reply = hear(&mut socket).await;
    assert_eq!(
        (&reply["reply"]["id"], &reply["reply"]["authenticated"]["userId"]),
        (&json!(1), &user)
    );

    say(&mut socket, &json!({ "id": 2, "subscribe": { "channelName": "lobby" } })).await;
    let reply = hear(&mut socket).await;
    let subscribed = &reply["reply"]["subscribed"];
    assert_eq!(subscribed["channelName"], "lobby");
    let (channel, epoch) = (subscribed["channelId"].clone(), subscribed["epoch"].clone());

    // 64 bits are strings in proto3 JSON; numbers are taken too.
    let publish = json!({ "channelName": "lobby", "clientMessageId": "7", "body": "h\u{e9}llo" });
    say(&mut socket, &json!({ "id": 3, "publish": publish })).await;
    let event = hear(&mut socket).await;
    let messages = &event["messages"];
    assert_eq!((&messages["channelId"], &messages["firstSequence"]), (&channel, &json!("1")));
    let record = json!([{ "userId": user, "clientMessageId": "7", "body": "h\u{e9}llo" }]);
    assert_eq!(messages["records"], record);
    let reply = hear(&mut socket).await;
    assert_eq!(reply["reply"]["published"]["sequence"], "1");
    assert_eq!(reply["reply"]["published"]["durability"], "FSYNCED");

    // Somebody on the other subprotocol is in the same conversation.
    let mut other = Peer::login(&server, "bob").await;
    other.publish("lobby", "hello back").await.unwrap();
    assert_eq!(hear(&mut socket).await["messages"]["records"][0]["body"], "hello back");

    say(&mut socket, &json!({ "id": 4, "history": { "channelId": channel, "beforeSequence": 2 } }))
        .await;
    let page = &hear(&mut socket).await["reply"]["history"];
    assert_eq!((&page["epoch"], &page["headSequence"]), (&epoch, &json!("2")));
    assert_eq!(page["runs"][0]["records"], record);

    say(&mut socket, &json!({ "id": 5, "publish": { "channelName": "nowhere", "body": "x" } }))
        .await;
    let error = &hear(&mut socket).await["reply"]["error"];
    assert_eq!(error["code"], "UNKNOWN_CHANNEL");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));

    say(&mut socket, &json!({ "id": 6, "unsubscribe": { "channelId": channel } })).await;
    assert_eq!(hear(&mut socket).await["reply"]["unsubscribed"]["channelId"], channel);
    within("a close", socket.close(None)).await.unwrap();
    assert!(matches!(within("the close", socket.next()).await, Some(Ok(Frame::Close(_)))));
}

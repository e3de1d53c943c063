#!/usr/bin/python3
"""What people would otherwise run: the same contract as iamcat's in plain Python, with paho-mqtt and requests
from Debian. Takes iamcat's environment. For the benchmark only: it checks and remembers far less."""

import json
import os
import time
from datetime import datetime, timezone

import paho.mqtt.client as mqtt
import requests

API = f"http://{os.environ['WEB_CONTAINER_HOST']}:{os.environ['WEB_CONTAINER_PORT']}"
PREFIX = os.environ.get("MQTT_TOPIC_PREFIX", "iamcat")
INTERVAL = float(os.environ.get("STATE_INTERVAL", "5"))
STARTED = time.time()


def stamp() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def get(path: str, params: dict | None = None) -> dict:
    return requests.get(API + path, params=params, timeout=10).json()


def make_token(serial: str) -> str:
    now = int(time.time())
    body = {"barn": {"sub": serial, "iat": now, "exp": now + 300}, "headers": {"alg": "ES256", "typ": "JWT"},
            "expires_in": 5}
    return requests.post(API + "/api/jwt/create", json=body, timeout=10).json()["jwt"]


def on_connect(client: mqtt.Client, _data: object, _flags: dict, code: int) -> None:
    if code == 0:
        client.subscribe(f"{PREFIX}/modbus/request", 1)


def call(request: dict) -> dict:
    names = ["device_id", "address", "function_code"]
    if request["function_code"] == 16:
        params = {**{name: request[name] for name in names}, "type": request.get("type", "U16")}
        values = request["values"]
        params["values"] = ",".join(map(str, values)) if isinstance(values, list) else str(values)
    else:
        params = {**{name: request[name] for name in names}, "size": request.get("size", 1),
                  "type": request.get("type", "U16"), "endianess": request.get("endianess", "big"),
                  "scale_factor": request.get("scale_factor", 1)}
    return get("/api/inverter/modbus", params)


def on_message(client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
    request = None
    try:
        request = json.loads(message.payload)
        response = call(request)
    except Exception as error:  # whatever it was, there is one answer
        response = {"success": False, "error": str(error)}
    answer = {"timestamp": stamp(), "type": "modbus_response", "request": request, "response": response}
    client.publish(f"{PREFIX}/modbus/response", json.dumps(answer), 1)


def state() -> dict:
    try:
        return {**get("/api/state"), "timestamp": stamp(), "type": "gateway_state"}
    except Exception:
        return {"timestamp": stamp(), "type": "gateway_state", "status": "api_unavailable",
                "uptime": time.time() - STARTED, "version": "1.0.0",
                "error": "Failed to fetch state from web container"}


def main() -> None:
    serial = get("/api/crypto")["serialNumber"]
    client = mqtt.Client(os.environ.get("MQTT_CLIENT_ID", serial), clean_session=False)
    client.on_connect, client.on_message = on_connect, on_message
    client.on_disconnect = lambda *_: client.username_pw_set(serial, make_token(serial))
    client.username_pw_set(serial, make_token(serial))
    client.tls_set(os.environ["MQTT_ROOT_CA_FILE"])
    client.connect(os.environ["MQTT_BROKER_HOST"], int(os.environ["MQTT_BROKER_PORT"]), 60)
    client.loop_start()
    while True:
        client.publish(f"{PREFIX}/state", json.dumps(state()), 1)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main()

"""Ask a server as fast as it answers, from eight threads: python -m tests.containers.load PORT SECONDS."""

import http.client
import json
import sys
import threading
import time


def main(port: int, seconds: float) -> None:
    end, errors, answers = time.monotonic() + seconds, [], [0] * 8

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        asked = 1 + 3 * number
        body = json.dumps({"texts": ["the film was not long"] * asked, "pairs": ["good movie"] * asked})
        while time.monotonic() < end:
            try:
                connection.request("POST", "/predict", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                report = json.loads(answer.read())
                if answer.status != 200 or len(report["predictions"]) != asked:
                    errors.append([answer.status, report])
                answers[number] += 1
            except (OSError, http.client.HTTPException) as error:
                errors.append(repr(error))
                return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(answers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"answers": sum(answers), "errors": errors[:10]}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))

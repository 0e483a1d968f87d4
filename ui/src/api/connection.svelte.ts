// Whether the server answers, and lets us in.

class Connection {
  online = $state(true);
  denied = $state(false);
}

export const connection = new Connection();

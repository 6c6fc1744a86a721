#!/bin/sh
# Makes the secret files that docker-compose.yml names, once: `deploy/make-secrets.sh [DIRECTORY]`.
#
# A file that exists is left as it is. Back up secret_keys apart from the database: without it nothing
# in the database can be read, with it everything can.
set -eu

directory=${1:-secrets}
mkdir -p "$directory"
# The directory keeps others out. The files themselves are mounted into containers that run under
# different user ids, so those must be able to read them.
chmod 700 "$directory"
printf '*\n' > "$directory/.gitignore"
cd "$directory"

random() {  # as many bytes of chance as asked for, as letters that need no quoting in a URL
    head -c "$1" /dev/urandom | od -An -vtx1 | tr -d ' \n'
}

put() {  # put NAME: the file's content comes on standard input
    if [ ! -e "$1" ]; then
        cat > "$1.new"
        chmod 444 "$1.new"
        mv "$1.new" "$1"
        echo "made $directory/$1"
    fi
}

# The server's administrator, who makes the roles.
random 24 | put postgres_password

# Passwords of roles stand in two files each: one for who makes the role, one for who uses it.
# database_url_door is for producers, of which docker-compose.yml has none.
for role in owner admin worker consents door reader; do
    if [ ! -e "${role}_password" ] || [ ! -e "database_url_$role" ]; then
        rm -f "${role}_password" "database_url_$role"
        password=$(random 24)
        printf '%s' "$password" | put "${role}_password"
        printf 'postgresql://alertpost_%s:%s@postgres:5432/alertpost\n' "$role" "$password" |
            put "database_url_$role"
    fi
done

if [ ! -e valkey_acl ] || [ ! -e redis_url ]; then
    rm -f valkey_acl redis_url
    valkey=$(random 24)
    {
        echo "user default on nopass resetkeys resetchannels -@all +ping"
        echo "user alertpost on >$valkey allkeys allchannels +@all"
    } | put valkey_acl
    printf 'redis://alertpost:%s@valkey:6379/0\n' "$valkey" | put redis_url
fi

head -c 32 /dev/urandom | base64 | put secret_keys

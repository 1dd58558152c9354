// zigbee-herdsman as a coordinator on a stick: one JSON line an event on stdout, one command a line
// on stdin: "permit SECONDS", "code INSTALL_CODE", "update IEEE OTA_FILE", "version IEEE", "stop".
//
// usage: node peer.mjs FOLDER_OF_NODE_MODULES PORT DATA_FOLDER NETWORK_JSON
import {createRequire} from "node:module";
import {createInterface} from "node:readline";

const [modules, path, data, network] = process.argv.slice(2);
const {Controller, setLogger} = createRequire(`${modules}/`)("zigbee-herdsman");
const complain = (message, namespace) => console.error(`${namespace}: ${message}`);
setLogger({debug: () => {}, info: () => {}, warning: complain, error: complain});

const tell = (event, fields = {}) => process.stdout.write(`${JSON.stringify({event, ...fields})}\n`);

const controller = new Controller({
    network: JSON.parse(network),
    transport: {path, adapter: "zstack", baudRate: 115200, rtscts: false},
    databasePath: `${data}/database.db`,
    databaseBackupPath: `${data}/database.db.backup`,
    backupPath: `${data}/backup.json`,
    adapter: {disableLED: false},
    acceptJoiningDeviceHandler: async () => true,
});
controller.on("deviceJoined", ({device}) => tell("joined", {ieee: device.ieeeAddr, nwk: device.networkAddress}));
controller.on("deviceAnnounce", ({device}) => tell("announced", {ieee: device.ieeeAddr}));
controller.on("deviceLeave", ({ieeeAddr}) => tell("left", {ieee: ieeeAddr}));
controller.on("deviceInterview", ({device, status}) =>
    tell("interview", {
        status,
        ieee: device.ieeeAddr,
        model: device.modelID,
        manufacturer: device.manufacturerName,
        endpoints: device.endpoints.map(({ID, profileID, inputClusters, outputClusters}) => ({ID, profileID, inputClusters, outputClusters})),
    }),
);
controller.on("message", ({device, endpoint, cluster, type}) => tell("message", {ieee: device.ieeeAddr, endpoint: endpoint.ID, cluster, type}));
controller.on("adapterDisconnected", () => tell("disconnected"));

const otaEndpoint = (ieee) => controller.getDeviceByIeeeAddr(ieee).endpoints.find((one) => one.supportsOutputCluster("genOta"));

async function updated(ieee, url) {
    const device = controller.getDeviceByIeeeAddr(ieee);
    const [from, to] = await device.updateOta({url}, undefined, undefined, {}, () => {}, {requestTimeout: 60000, responseDelay: 0, baseSize: 50});
    tell("updated", {ieee, endpoint: otaEndpoint(ieee).ID, from: from.fileVersion, to: to?.fileVersion ?? null});
}

try {
    const result = await controller.start();
    tell("started", {
        result,
        network: await controller.getNetworkParameters(),
        version: await controller.getCoordinatorVersion(),
        devices: [...controller.getDevicesIterator()].map((device) => device.ieeeAddr),
    });
    for await (const line of createInterface({input: process.stdin})) {
        const [command, argument, ...rest] = line.split(" ");
        if (command === "permit") {
            await controller.permitJoin(Number(argument));
            tell("permitted", {seconds: Number(argument)});
        } else if (command === "code") {
            await controller.addInstallCode(argument);
            tell("code taken");
        } else if (command === "update") {
            // Beside the commands: it ends with the device's announcement.
            updated(argument, rest.join(" ")).catch((error) => tell("failed", {reason: String(error?.stack ?? error)}));
        } else if (command === "version") {
            const {currentFileVersion} = await otaEndpoint(argument).read("genOta", ["currentFileVersion"]);
            tell("version", {ieee: argument, version: currentFileVersion});
        } else {
            break;
        }
    }
    await controller.stop();
    tell("stopped");
    process.exit(0);
} catch (error) {
    tell("failed", {reason: String(error?.stack ?? error)});
    process.exit(1);
}

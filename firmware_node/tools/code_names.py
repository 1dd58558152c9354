"""Short names for alert codes and message codes, for people who read decoded messages.

Alert codes are the event codes of a device's logs as well. That a code is absent does not make it
free. Source: the code tables of the GBCS fact sheet.
"""

from __future__ import annotations

from collections.abc import Mapping

_ALERTS = """\
8002 average voltage now above the average over-voltage threshold
8003 average voltage now above the average over-voltage threshold on phase 1
8004 average voltage now above the average over-voltage threshold on phase 2
8005 average voltage now above the average over-voltage threshold on phase 3
8006 average voltage now below the average under-voltage threshold
8007 average voltage now below the average under-voltage threshold on phase 1
8008 average voltage now below the average under-voltage threshold on phase 2
8009 average voltage now below the average under-voltage threshold on phase 3
8010 over current
8011 over current L1
8013 over current L3
8014 power factor threshold below
8015 power factor threshold ok
8016 over current L2
8020 voltage rises above the extreme over-voltage threshold
8021 voltage rises above the extreme over-voltage threshold on phase 1
8022 voltage rises above the extreme over-voltage threshold on phase 2
8023 voltage rises above the extreme over-voltage threshold on phase 3
8024 voltage rises above the swell threshold
8025 voltage rises above the swell threshold on phase 1
8026 voltage rises above the swell threshold on phase 2
8027 voltage rises above the swell threshold on phase 3
8028 voltage falls below the extreme under-voltage threshold
8029 voltage falls below the extreme under-voltage threshold on phase 1
802A voltage falls below the extreme under-voltage threshold on phase 2
802B voltage falls below the extreme under-voltage threshold on phase 3
802C voltage falls below the sag threshold
802D voltage falls below the sag threshold on phase 1
802E voltage falls below the sag threshold on phase 2
802F voltage falls below the sag threshold on phase 3
8071 GPF device log changed
8085 average voltage now below the average over-voltage threshold
8086 average voltage now below the average over-voltage threshold on phase 1
8087 average voltage now below the average over-voltage threshold on phase 2
8088 average voltage now below the average over-voltage threshold on phase 3
8089 average voltage now above the average under-voltage threshold
808A average voltage now above the average under-voltage threshold on phase 1
808B average voltage now above the average under-voltage threshold on phase 2
808C average voltage now above the average under-voltage threshold on phase 3
808D voltage returns below the extreme over-voltage threshold
808E voltage returns below the extreme over-voltage threshold on phase 1
808F voltage returns below the extreme over-voltage threshold on phase 2
8090 voltage returns below the extreme over-voltage threshold on phase 3
8091 voltage returns below the swell threshold
8092 voltage returns below the swell threshold on phase 1
8093 voltage returns below the swell threshold on phase 2
8094 voltage returns below the swell threshold on phase 3
8095 voltage returns above the extreme under-voltage threshold
8096 voltage returns above the extreme under-voltage threshold on phase 1
8097 voltage returns above the extreme under-voltage threshold on phase 2
8098 voltage returns above the extreme under-voltage threshold on phase 3
8099 voltage returns above the sag threshold
809A voltage returns above the sag threshold on phase 1
809B voltage returns above the sag threshold on phase 2
809C voltage returns above the sag threshold on phase 3
810D combined credit below low credit threshold (prepayment mode)
810E credit added locally
8119 emergency credit has become available (prepayment mode)
811A failure in changing or maintaining HCALCS or ALCS state
8131 success in changing or maintaining HCALCS or ALCS state
8145 clock adjusted (within tolerance)
8154 immediate HAN command done
8155 immediate HAN command not done
8161 user interface command done
8162 user interface command not done
8168 supply disabled then armed, activate emergency credit triggered
8183 device joined SMHAN
8184 valve tested
819D GSME command not retrieved
819E tap off message response or alert failure
81A0 smart meter integrity issue, warning
81A1 battery cover closed
81A2 CH connected to ESME
81A3 CH disconnected from ESME
81A4 close tunnel command rejected
81A5 communication from local port
81A6 customer acknowledged message on HAN device
81A7 debt collection completed, time debt 1
81A8 debt collection completed, time debt 2
81A9 debt collection completed, payment debt
81AA emergency credit exhausted
81AB emergency credit activated
81AC error measurement fault
81AD error metrology firmware verification failure
81AE non-volatile memory error
81AF program execution
81B0 program storage
81B1 error RAM
81B2 error unexpected hardware reset
81B3 watchdog error
81B4 excess gas flow beyond meter capacity
81B5 flow sensor detects air in gas flow
81B6 flow sensor detects reverse flow of gas
81B7 incorrect phase sequencing
81B8 incorrect polarity
81B9 meter cover closed
81BA request tunnel command rejected
81BB reverse current
81BC strong magnetic field removed
81BD supply connect failure (Valve or load switch)
81BE supply disabled then locked, supply tamper state cause
81BF supply disabled then armed, uncontrolled gas flow rate
81C0 supply disconnect failure (Valve or load switch)
81C1 terminal cover closed
81C2 tilt tamper ended
81C3 tilt tamper
81C4 UTRN manual entry suspended
81C5 UTRN rejected as locked out
81C6 clock not adjusted (outside tolerance)
8F01 active power import above load limit threshold
8F0A billing data log updated
8F0C clock not adjusted (adjustment greater than 10 seconds)
8F0F credit below disablement threshold (prepayment mode)
8F12 CHF device log changed
8F1B firmware verification failed at power on
8F1C firmware verification failed
8F1D GSME power supply loss
8F1E integrity check of content or format failed
8F1F low battery capacity
8F20 limited duty cycle action taken
8F21 duty cycle fallen below normal-limited duty cycle threshold
8F22 critical duty cycle action taken
8F23 duty cycle fallen below limited-critical duty cycle threshold
8F24 regulated duty cycle action taken
8F25 duty cycle fallen below critical-regulated duty cycle threshold
8F26 Sub-GHz channel changed
8F27 Sub-GHz channel scan initiated
8F28 Sub-GHz channel scan request assessment outcome
8F29 three lost GSME searches failed
8F2A Sub-GHz configuration changed
8F2B Sub-GHz channel not changed due to frequency agility parameters
8F2C message discarded due to duty cycle management
8F2D no more Sub-GHz device capacity
8F30 source lacks authority for the command
8F32 supply armed
8F33 supply disabled then armed, load limit triggered
8F34 supply enabled after load limit restoration period (load limit triggered)
8F35 supply outage restored
8F36 supply outage, outage 3 minutes or more
8F37 supply outage restored on phase 1
8F38 supply outage restored on phase 1, outage 3 minutes or more
8F39 supply outage restored on phase 2
8F3A supply outage restored on phase 2, outage 3 minutes or more
8F3B supply outage restored on phase 3
8F3C supply outage restored on phase 3, outage 3 minutes or more
8F3D trusted source authentication failure
8F3E unauthorised communication access attempted
8F3F unauthorised physical access, tamper detect
8F43 executing firmware version changed
8F47 credit would cause meter balance to exceed maximum meter balance threshold
8F48 device joining failed
8F49 device joining succeeded
8F4A device unjoining failed
8F4B device unjoining succeeded
8F4C device's own digital signing certificate replacement failed
8F4D device's own digital signing certificate replacement succeeded
8F4E device's own key agreement certificate replacement failed
8F4F device's own key agreement certificate replacement succeeded
8F51 duplicate UTRN entered
8F52 event log cleared
8F53 authentication or authorisation failed
8F57 supply interrupted
8F58 supply interrupted on phase 1
8F59 supply interrupted on phase 2
8F5A supply interrupted on phase 3
8F5B UTRN exceeds maximum credit threshold
8F60 unusual numbers of malformed or out-of-order commands
8F63 UTRN not authentic
8F64 UTRN not for this device
8F66 future-dated command done
8F67 future-dated command not done
8F69 device commissioned
8F70 update security credentials
8F72 firmware verification succeeded
8F73 unauthorised physical access, battery cover removed
8F74 unauthorised physical access, meter cover removed
8F75 unauthorised physical access, strong magnetic field
8F76 unauthorised physical access, terminal cover removed
8F77 unauthorised physical access, second terminal cover removed
8F78 unauthorised physical access, other
8F82 remaining battery capacity reset
8F83 disablement of supply due to insufficient credit has been suspended
8F84 failure to deliver remote party message to ESME
8F85 command not supported by the device
8F86 limit of an APC level processed
8F87 limit of an APC level ended or cancelled
8F88 operational update
8F89 firmware transfer failed
8F8A firmware transfer succeeded
8F8B PPMID firmware activated or not
"""
_MESSAGES = """\
0001 Add device to CHF device log
0002 Remove device from CHF device log
0003 Restore CHF device log
0004 Read CHF device log (old form)
0007 Apply prepayment top up to an ESME
0008 Provide security credentials details
000A Issue security credentials
000B Update device certificates on device
000C Provide device certificates from device
000D Method A join (meter)
000E Method B join
000F Method A or C unjoin
0010 Method B unjoin
0012 Activate firmware
0013 Read device join details
0014 Read ZigBee device event log
0015 Clear ZigBee device event log
0018 CHF device log change alert
0019 Set tariff and price on ESME
001A Set ESME payment mode to credit
001B Set ESME payment mode to prepayment
001C Adjust meter balance on the ESME
001D Reset tariff block counter matrix
001E Manage debt on the ESME
001F Update prepayment configuration on ESME
0020 Activate emergency credit remotely on ESME
0021 Send message to ESME
0022 Set change of tenancy date on ESME
0023 Disable privacy PIN protection on ESME
0024 Clear ESME event log
0025 Write supplier contact details on ESME
0026 Read ESME energy registers (export energy)
0027 Read ESME energy registers (import energy)
0028 Read ESME energy registers (power)
0029 Read ESME energy register (TOU)
002A Read ESME energy register (TOU with blocks)
002B Read maximum demand registers (export)
002C Read maximum demand registers (import)
002D Read ESME prepayment registers
002E Read ESME billing data log (payment based debt payments)
002F Read ESME billing data log (change of mode / tariff triggered exc export)
0030 Read ESME billing data log (billing calendar triggered exc export)
0033 Read electricity daily read log (exc export)
0034 Read electricity (prepayment) daily read log
0035 Read electricity daily read log (export only)
0036 Read electricity half hour profile data (export)
0037 Read electricity half hour profile data (active import)
0038 Read electricity half hour profile data (reactive import)
0039 Read voltage operational data
003A Read ESME tariff data
003B Read ESME configuration data prepayment
003C Read ESME configuration voltage data
003D Read ESME device information (randomisation)
003E Read ESME device information (billing calendar)
003F Read ESME device information (device identity exc MPAN)
0040 Read ESME device information (instantaneous power thresholds)
0042 Read ESME load limit data
0043 Set load limit configurations, general settings
0044 Set load limit configuration counter reset
0045 Set voltage configurations on ESME
0046 Set billing calendar on the ESME
0047 Set instantaneous power threshold configuration
0048 Read ESME event log
0049 Read ESME security log
004A Set maximum demand configurable time period
004B Update randomised offset limit
004C Set MPAN value on the ESME
004D Set export MPAN value on the ESME
004E Read MPAN value on the ESME
004F Remotely close the load switch on the ESME
0050 Remotely open the load switch on the ESME
0051 Arm load switch in ESME
0052 Read status of load switch in the ESME
0053 Set HCALCS or ALCS labels in ESME
0054 Set HCALCS and ALCS configuration in ESME (excluding labels)
0055 Set or reset HCALCS or ALCS state
0058 Send CIN to ESME
0059 Read ESME/Comms Hub firmware version
005A Reset ESME maximum demand registers
005E Read boost button data from ESME
005F Set ALCS and boost button association
0060 Read ESME daily consumption log
0061 ESME critical sensitive alert (billing data log)
0062 Set clock on ESME
0067 Supply outage restore alert from ESME
0068 Set supply tamper state on ESME
0069 Read meter balance for ESME
006B Set tariff and price on GSME
006C Set GSME payment mode to credit
006D Set GSME payment mode to prepayment
006E Manage debt on the GSME
006F Update prepayment configurations on GSME
0070 Activate emergency credit remotely on GSME
0071 Send message to GSME
0072 Set change of tenancy date on GPF
0073 Disable privacy PIN protection on GSME
0074 Read GSME consumption register
0075 Read GSME prepayment registers
0076 Read GSME billing data log (billing calendar triggered)
0077 Read GSME daily read log
0078 Read GSME profile data log
0079 Read gas network data log
007B Read gas configuration data device information
007C Set CV and conversion factor value(s) on the GSME
007D Set uncontrolled gas flow rate and supply tamper state on the GSME
007E Set billing calendar on the GSME
007F Set clock on GSME
0080 Start network data log on GSME
0081 Remotely close the valve in the GSME
0082 Read GSME valve status
0083 Send CIN to GSME
0084 Read GSME firmware version
0085 Arm valve in GSME
0086 Adjust prepayment mode meter balance on the GSME
0087 Set MPRN value on the GSME
0088 Write contact details on GSME
0089 Read MPRN on the GSME
008B Billing data log as an alert
008C Restore GPF device log
008D Read meter balance for GSME
0090 Activate emergency credit on GSME from PPMID
0092 Read configuration data device information (CHF identity)
0093 Read CHF event log
0094 Read CHF security log
0096 Read GSME daily read log(s) (prepayment)
0097 Apply prepayment top up to a GSME
009B Apply prepayment top up to a GSME using PPMID
009D Read GSME device information (billingCalendar)
009E Read GSME/GPF configuration data device information (device identity)
009F Read GSME tariff data
00A0 Read gas daily consumption log
00A1 Read ZigBee device security log
00A2 Set price on ESME
00A3 Set price on GSME
00AB Method A join (non meter)
00AC Set alert behaviours, ESME, supplier
00AD Set alert behaviours, GSME
00AE Set voltage configurations on ESME, 3ph
00AF Method C join
00B0 Set alert behaviours, ESME, network operator
00B2 Backup GPF device log
00B3 Reset meter balance on the ESME
00B4 Reset prepayment mode meter balance on the GSME
00B5 Read GSME configuration data prepayment
00B6 Read GSME register (TOU)
00B7 Set tariff and price on ESME secondary
00B8 Read GSME block counters
00B9 Read ESME power event log
00BA Read ALCS event log
00BB Read HCALCS and ALCS data from ESME
00BC Read voltage operational data, 3 phase
00BD Read ESME tariff data, second element
00BE Read ESME device information (payment mode)
00BF Read GSME device information (payment mode)
00C0 Adjust credit mode meter balance on the GSME
00C1 Clear ALCS event log
00C2 Reset credit mode meter balance on the GSME
00C3 Read GSME billing data log (change of mode / tariff triggered)
00C4 Read GSME billing data log (payment-based debt payments)
00C5 Read GSME billing data log (prepayment credits)
00C6 Read ESME configuration voltage data, 3 phase
00C7 Set price on ESME secondary
00C9 Read ESME billing data log (prepayment credits)
00CA Future-dated firmware activation alert
00CB Future-dated security credentials alert
00CC Future-dated instruction alert, DLMS
00CD Future-dated instruction alert, GBZ
00CE Firmware distribution receipt alert, DLMS
00CF Firmware distribution receipt alert, GBZ
00D1 Set voltage configurations on ESME without counter reset
00D2 Set voltage configurations on polyphase ESME without counter reset
00D3 Reset RMS voltage counters on ESME
00D4 Reset RMS voltage counters on polyphase ESME
00D5 Message to an ESME not delivered
00D7 Set billing calendar on the ESME, all periodicities
00D8 Set billing calendar on the GSME, all periodicities
00D9 Read ESME device information (billing calendar, all periodicities)
00DA Read GSME device information (billingCalendar, all periodicities)
00DB Configure daily resetting of tariff block counter matrix
00DE Update prepayment configuration on ESME
00EA Set event behaviours, ESME to HAN device, supplier
00EB Set event behaviours, ESME audible alarm, supplier
00EC Set event behaviours, ESME logging, supplier
00ED Set event behaviours, ESME logging, network operator
00EE Read non-critical event and alert behaviours, ESME, supplier
00EF Read non-critical event and alert behaviours, ESME, network operator
00F0 Meter integrity issue warning alert, ESME
00F1 Read non-critical event and alert behaviours, GSME, supplier
00F2 Meter integrity issue warning alert, GSME
00F9 Read ESME device information (identity, type and supply tamper state)
00FA Read CHF configuration data device information (CH identity and type)
00FB Read GSME device information (identity, type and supply tamper / depletion state)
00FC Set uncontrolled gas flow rate and supply tamper state on the GSME (SMETS4)
00FD Read ALCS event log
00FE Read CHF device logs
0100 Update security credentials (rootBySupplier)
0101 Update security credentials (rootByWanProvider)
0102 Update security credentials (supplierBySupplier)
0103 Update security credentials (networkOperatorByNetworkOperator)
0104 Update security credentials (accessControlBrokerByACB)
0105 Update security credentials (wanProviderByWanProvider)
0106 Update security credentials (transCoSByTransCoS)
0107 Update security credentials (supplierByTransCoS)
0108 Update security credentials (anyExceptAbnormalRootByRecovery)
0109 Update security credentials (anyByContingency)
010A Read CHF Sub-GHz channel
010B Read CHF Sub-GHz channel log
010C Read CHF Sub-GHz configuration
010D Set CHF Sub-GHz configuration
010E Request CHF Sub-GHz channel scan
010F Read CHF device log and check HAN communications
0110 Limited duty cycle action taken Sub-GHz alert
0111 Sub-GHz channel changed Sub-GHz alert
0112 Sub-GHz channel scan request assessment outcome Sub-GHz alert
0113 Sub-GHz configuration changed Sub-GHz alert
0114 Message discarded due to duty cycle management Sub-GHz alert
0115 No more Sub-GHz device capacity Sub-GHz alert
0116 Apply prepayment top up to an ESME using PPMID
0117 Activate emergency credit on ESME from PPMID
0118 Request to enable ESME supply from PPMID
0119 HCALCS asks for control
011A Set auxiliary controller calendar
011B Provide security credential details
011C Read auxiliary controller configuration data
011D Read auxiliary controller operational data
011E Set auxiliary controller state
011F Limit APC level
0120 Command not supported by device
0121 Limit APC level command processed
0122 Limit APC level ended or cancelled
0123 Operational update
0124 Update load controller security credentials
0125 Update load controller security credentials
0126 Update load controller security credentials
0128 Firmware transfer alert
0129 Read firmware version
012B PPMID firmware activation alert
1000 Critical alert
1001 Non-critical alert
"""


def _table(lines: str) -> Mapping[int, str]:
    return {int(line[:4], 16): line[5:] for line in lines.splitlines()}


ALERT_NAMES = _table(_ALERTS)
MESSAGE_NAMES = _table(_MESSAGES)
